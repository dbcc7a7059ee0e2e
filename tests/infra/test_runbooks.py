"""Each alert has a page that says what to do, each page its alert, and what a page says to run exists."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from deployments.definitions import deployment_specs
from tests.infra.monitored import INFRA
from trimtab.config import params
from trimtab.config.settings import Settings

ROOT = INFRA.parent
PAGES = sorted((ROOT / "docs" / "runbooks").glob("*.md"))
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`((?:trimtab|prefect|python -m) [^`]+)`")
END = "~" * 9
ASK = f"""
import json, sys
from contextlib import suppress
from prefect.cli import app
for path in json.loads(sys.argv[1]):
    sys.argv = ["prefect", *path, "--help"]
    with suppress(SystemExit):
        app()
    print("{END}")
"""
MARKS = ("## See it", "## What to do", "## When to stop worrying")


def _runbooks() -> dict[str, str]:
    files = ("alerts.yaml", "loop.yaml")
    groups = [g for file in files for g in yaml.safe_load((INFRA / "prometheus" / file).read_text())["groups"]]
    rules = [rule for group in groups for rule in group["rules"] if "alert" in rule]
    return {rule["alert"]: rule["annotations"]["runbook"] for rule in rules}


def _commands(*pages: Path) -> list[list[str]]:
    """Command lines of *pages*, in blocks and in running text, as words without their comments."""
    found = []
    for page in pages:
        text = page.read_text()
        lines = [line for block in BLOCK.findall(text) for line in block.splitlines()]
        found += [line.split(" #")[0].split() for line in [*lines, *CODE.findall(text)] if line.strip()]
    return found


def test_each_alert_has_its_page_and_each_page_its_alert() -> None:
    assert _runbooks() == {page.stem: f"docs/runbooks/{page.name}" for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.stem))
def test_a_page_says_what_it_means_what_to_look_at_what_to_do_and_when_it_is_over(page: Path) -> None:
    text = page.read_text()
    assert text.startswith(f"# {page.stem}\n")
    assert [text.count(mark) for mark in MARKS] == [1, 1, 1]
    assert sorted(MARKS, key=text.index) == list(MARKS)
    assert BLOCK.search(text.split(MARKS[0])[1].split(MARKS[1])[0]), "something to look at"
    assert len(text.splitlines()) < 60


def test_every_deployment_that_a_page_runs_exists_and_takes_those_parameters() -> None:
    import importlib
    import inspect

    known = {spec.full_name: spec.flow for spec in deployment_specs(params.load(ROOT), Settings())}
    ran = [words for words in _commands(*PAGES) if words[:3] == ["prefect", "deployment", "run"]]
    assert len(ran) > 5
    for words in ran:
        assert words[3] in known, words
        flow = getattr(importlib.import_module(f"flows.{known[words[3]]}"), known[words[3]])
        given = {words[at + 1].split("=")[0] for at, word in enumerate(words) if word == "-p"}
        assert given <= set(inspect.signature(flow.fn).parameters), words


def test_every_flow_that_trimtab_run_is_given_exists() -> None:
    from cli.main import FLOWS

    ran = {words[2] for words in _commands(*PAGES) if words[:2] == ["trimtab", "run"]}
    assert ran
    assert ran <= set(FLOWS)


def test_everything_else_of_prefect_that_a_page_runs_exists() -> None:
    """Asked of Prefect's own command line, all at once: its start takes seconds."""
    wanted = {
        tuple(word for word in words[1 : 4 if words[2] == "schedule" else 3] if not word.startswith("-"))
        for words in _commands(*PAGES)
        if words[0] == "prefect"
    }
    options = {
        (words[1], words[2], word) for words in _commands(*PAGES) if words[0] == "prefect" for word in words[3:]
        if word.startswith("--")
    }  # fmt: skip
    assert len(wanted) > 4
    done = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps(sorted(wanted))], capture_output=True, text=True, check=False
    )
    said = dict(zip(sorted(wanted), done.stdout.split(END)[:-1], strict=True))
    assert not [path for path, text in said.items() if "Usage: prefect " + " ".join(path) not in text]
    assert not [option for *path, option in options if option not in said[tuple(path)]]
