"""README and docs agree with the program: links lead somewhere, commands and names exist."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import pytest
import yaml

from tests.conftest import Stack

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)


def _commands(page: Path) -> list[str]:
    lines = [line.split("#")[0].strip() for block in BLOCK.findall(page.read_text()) for line in block.splitlines()]
    return [line for line in lines if line]


@cache
def _help() -> str:
    return subprocess.run([sys.executable, "-m", "cli", "--help"], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_make_target_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", page.read_text(), re.MULTILINE))
    assert named <= targets, named - targets


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_trimtab_command_exists(page: Path) -> None:
    known = _help()
    commands = set(re.findall(r"^\W*([a-z]+) {2,}", known, re.MULTILINE))
    named = set(re.findall(r"`trimtab ([a-z]+)", page.read_text()))
    named |= {line.split()[1] for line in _commands(page) if line.startswith("trimtab ")}
    assert named <= commands, named - commands


def test_every_key_of_params_is_in_its_page() -> None:
    page = (ROOT / "docs" / "reference" / "params.md").read_text()
    sections = yaml.safe_load((ROOT / "params.yaml").read_text())
    for section, keys in sections.items():
        assert f"`{section}" in page
        for key in keys if isinstance(keys, dict) else ():
            assert f".{key}`" in page or f".{key}." in page, f"{section}.{key}"


@pytest.mark.e2e
def test_what_the_readme_says_to_run_runs(stack: Stack) -> None:
    """The commands of README's part on use, in their order, on a running stack."""
    use = (ROOT / "README.md").read_text().split("## Use it")[1].split("## For a team")[0]
    commands = [
        line.split("#")[0].strip() for block in BLOCK.findall(use) for line in block.splitlines() if line.strip()
    ]
    assert any(c.startswith("prefect deployment run") for c in commands)
    before = stack.ledger.live()
    assert before is not None
    for command in commands:
        words = re.findall(r'"[^"]*"|\S+', command)
        words = [word.strip('"') for word in words]
        if words == ["trimtab", "down"]:
            continue
        if words[0] == "trimtab":
            stack.trimtab(*words[1:])
        else:
            code = f"import sys; sys.argv = {words!r}; from prefect.cli import app; app()"
            stack.python(code)
    _wait_until_quiet(stack)  # what the commands have asked for may still release something
    stack.trimtab("promote", before.champion, "--reason", "as it was before the README's commands")


def _wait_until_quiet(stack: Stack, *, within_s: float = 100) -> None:
    tags = ["retrain/nightly", "retrain/on-drift", "drift-monitor/on-batch", "ingest/on-request"]
    busy = {"flow_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING"]}}, "tags": {"any_": tags}}}
    deadline, quiet = time.monotonic() + within_s, 0
    while quiet < 4 and time.monotonic() < deadline:
        quiet = 0 if stack.prefect("/flow_runs/filter", busy) else quiet + 1
        time.sleep(1.5)
    assert quiet, "the flow runs that the commands asked for have not ended"
