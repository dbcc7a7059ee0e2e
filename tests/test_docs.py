"""README and docs agree with the program: links lead somewhere, commands and names exist."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.conftest import Stack
from tools.reference.observability import EVENTS
from tools.reference.pages import REFERENCE, pages
from trimtab.config import params
from trimtab.data import schema

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "infra/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
ROOMS = "trimtab|stores|tasks|operations|flows|serving|deployments|cli|sources|tools|tests|bench|infra"
CODE = re.compile(r"`([^`\n]+)`")
FILE = re.compile(rf"(?<![\w/.-])(?:{ROOMS}|docs)/[\w./-]+\.(?:py|yaml|toml|cfg|md|lock|in)\b|\.ci/\w+")
MODULE = re.compile(rf"(?:{ROOMS})(?:\.[a-z_][a-z0-9_]*)+(?:\.[A-Za-z_]\w*)?")
NOT_MODULES = {*EVENTS, "trimtab.fact", "trimtab.base", "trimtab.lock"}  # an event's field, labels of images
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)


def _title(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _commands(page: Path) -> list[str]:
    lines = [line.split("#")[0].strip() for block in BLOCK.findall(page.read_text()) for line in block.splitlines()]
    return [line for line in lines if line]


@cache
def _help() -> str:
    return subprocess.run([sys.executable, "-m", "cli", "--help"], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("page", PAGES, ids=_title)
def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=_title)
def test_no_braces_outside_code_as_the_site_would_drop_them(page: Path) -> None:
    text = re.sub(r"^```.*?^```|`[^`\n]+`", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert re.findall(r"\{[\w.#: =-]+\}", text) == []


@pytest.mark.parametrize("page", PAGES, ids=_title)
def test_every_make_target_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", page.read_text(), re.MULTILINE))
    assert named <= targets, named - targets


@pytest.mark.parametrize("page", PAGES, ids=_title)
def test_every_trimtab_command_exists(page: Path) -> None:
    known = _help()
    commands = set(re.findall(r"^\W*([a-z]+) {2,}", known, re.MULTILINE))
    named = set(re.findall(r"`trimtab ([a-z]+)", page.read_text()))
    named |= {line.split()[1] for line in _commands(page) if line.startswith("trimtab ")}
    assert named <= commands, named - commands


def test_every_key_of_params_is_in_its_page() -> None:
    page = (REFERENCE / "params.md").read_text()
    sections = yaml.safe_load((ROOT / "params.yaml").read_text())
    for section, keys in sections.items():
        assert f"`{section}" in page
        for key in keys if isinstance(keys, dict) else ():
            assert f".{key}`" in page or f".{key}." in page, f"{section}.{key}"


def test_the_reference_is_what_the_code_says() -> None:
    """If this fails: make reference."""
    stale = [name for name, text in pages().items() if (REFERENCE / name).read_text() != text]
    assert not stale


@pytest.mark.parametrize("page", PAGES, ids=_title)
def test_every_file_and_module_that_is_named_exists(page: Path) -> None:
    text = page.read_text()
    files = [name for name in FILE.findall(text) if not (ROOT / name).exists()]
    modules = [name for name in CODE.findall(text) if MODULE.fullmatch(name) and name not in NOT_MODULES]
    assert (files, [name for name in modules if not _is_ours(name)]) == ([], [])


@pytest.mark.parametrize("page", PAGES, ids=_title)
def test_every_setting_and_metric_that_is_named_exists(page: Path) -> None:
    text, settings, metrics = page.read_text(), *((REFERENCE / n).read_text() for n in ("settings.md", "metrics.md"))
    named = {name.removesuffix("_FILE") for name in re.findall(r"TRIMTAB_[A-Z0-9_]*[A-Z0-9]", text)}
    assert {name for name in named if name not in settings} == set()
    counted = {re.sub(r"_(bucket|count|sum)$", "", name) for name in re.findall(r"`(trimtab_[a-z_]+[a-z])", text)}
    assert {name for name in counted if f"`{name}" not in metrics} == set()


@pytest.mark.parametrize("page", PAGES, ids=_title)
def test_every_key_of_params_that_is_named_exists(page: Path) -> None:
    known = (REFERENCE / "params.md").read_text()
    sections = "|".join({key.split(".")[0] for key in re.findall(r"^\| `([\w.]+)`", known, re.MULTILINE)})
    named = [c for c in CODE.findall(page.read_text()) if re.fullmatch(rf"(?:{sections})\.(?!json|html)[a-z_.]+", c)]
    assert [key for key in named if f"`{key}`" not in known and f"`{key}." not in known] == []


def _is_ours(name: str) -> bool:
    """Whether *name* is a module or package, or something that one of them names."""
    *parent, last = name.split(".")
    if ROOT.joinpath(*parent, last).is_dir() or ROOT.joinpath(*parent, f"{last}.py").exists():
        return True
    holders = ROOT.joinpath(*parent, "__init__.py"), ROOT.joinpath(*parent).with_suffix(".py")
    return any(re.search(rf"\b{last}\b", file.read_text()) for file in holders if file.exists())


def test_the_tutorial_s_files_make_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows that it makes have the columns that its params.yaml names, and the schema that it shows."""
    page = (ROOT / "docs" / "tutorial" / "your-project.md").read_text()
    code, (text, shown) = (re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL) for kind in ("python", "yaml"))
    (tmp_path / "params.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    subprocess.run([sys.executable, "-c", code[0]], check=True)
    project = params.load(tmp_path)
    rows = pd.read_parquet(tmp_path / project.source.target.replace("{period}", project.period.start))
    assert yaml.safe_load(schema.infer_schema(rows, project).dumps()) == yaml.safe_load(shown)


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
