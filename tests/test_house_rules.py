"""What is written down about this tree, as checks: sizes, names, words that must not be left behind, and locks."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("trimtab", "stores", "tasks", "operations", "flows", "serving", "deployments", "cli", "sources")
MAX_LINES = 320
MIRRORS = {
    # One name for two modules only where one is the other's counterpart in its room.
    "arrow": {"trimtab/requests", "serving/codecs"},
    "compaction": {"stores/telemetry/parquet", "stores/telemetry/remote"},
    "datasets": {"stores/ledger", "operations"},
    "errors": {"serving/http", "cli"},
    "experiments": {"operations", "cli"},
    "kubernetes": {"tasks", "operations/targets"},
    "monitoring": {"trimtab/evaluation", "operations"},
    "report": {"trimtab/experiment", "deployments/replay"},
    "rollouts": {"stores/ledger", "operations", "serving/metrics", "deployments/replay"},
    "schema": {"trimtab/data", "stores/telemetry/parquet"},
    "settings": {"trimtab/config", "serving"},
    "store": {"stores/object_store", "stores/releases"},
    "training": {"trimtab/model", "operations"},
}
# Words that stood for something which the field calls otherwise.
BANNED = {
    "bell", "conduct", "court", "crown", "crowned", "desk", "door", "doors", "hammer", "hush", "judgement",
    "judgements", "occasion", "occasions", "owed", "pace", "roster", "rounds", "shelf", "survival", "tally", "tend",
    "tidy", "told", "unruly", "untold", "wild",
}  # fmt: skip
NOT_NAMES = {"utils", "util", "helpers", "helper", "common", "base", "manager", "handler", "misc"}
LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-server.lock", "requirements-boot.lock")


def _tracked() -> list[Path]:
    """Files that git has, or would have; none in a tree that came without git."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode:
        return [path for room in (*ROOMS, "tests", "docs") for path in (ROOT / room).rglob("*.*")]
    return [path for name in listed.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]


FILES = _tracked()
MODULES = [path for path in FILES if path.suffix == ".py"]
PRODUCT = [path for path in MODULES if path.relative_to(ROOT).parts[0] in ROOMS]
TESTS = [path for path in MODULES if path.name.startswith("test_")]


def _names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def test_there_is_something_to_check() -> None:
    assert len(PRODUCT) > 50
    assert len(TESTS) > 10


def test_a_module_can_be_read_in_one_sitting() -> None:
    long = [name for path, name in zip(PRODUCT, _names(PRODUCT), strict=True) if len(_lines(path)) > MAX_LINES]
    assert not long, f"longer than {MAX_LINES} lines: split by idea"


def test_a_module_is_named_after_what_it_holds() -> None:
    assert not [name for path, name in zip(MODULES, _names(MODULES), strict=True) if path.stem in NOT_NAMES]


def test_two_modules_have_one_name_only_where_they_mirror_each_other() -> None:
    homes: dict[str, set[str]] = {}
    for path in PRODUCT:
        homes.setdefault(path.stem, set()).add(str(path.relative_to(ROOT).parent))
    twice = {stem: found for stem, found in homes.items() if len(found) > 1 and not stem.startswith("__")}
    assert twice == {stem: found for stem, found in MIRRORS.items() if stem in twice}


def test_no_two_public_types_have_one_name() -> None:
    homes: dict[str, list[str]] = {}
    for path, name in zip(PRODUCT, _names(PRODUCT), strict=True):
        for node in ast.parse(path.read_text()).body:
            for kind in _types(node):
                homes.setdefault(kind, []).append(name)
    assert not {kind: found for kind, found in homes.items() if len(found) > 1}


def _types(node: ast.stmt) -> list[str]:
    """The public classes and type aliases that a statement of a module defines."""
    if isinstance(node, ast.ClassDef):
        found = [node.name]
    elif isinstance(node, ast.Assign):
        found = [target.id for target in node.targets if isinstance(target, ast.Name)]
    else:
        found = []
    return [name for name in found if re.match(r"[A-Z]+[a-z]", name)]


def test_names_are_the_terms_of_the_field() -> None:
    """No function, class, argument or variable of the product has a banned word in its name."""
    found = []
    for path, name in zip(PRODUCT, _names(PRODUCT), strict=True):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                given = node.name
            elif isinstance(node, ast.arg):
                given = node.arg
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                given = node.id
            else:
                continue
            if BANNED & {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", given)}:
                found.append(f"{name}:{node.lineno}: {given}")
    assert not found


def test_a_module_says_what_lives_in_it() -> None:
    empty = [p for p in PRODUCT if p.read_text().strip() and not ast.get_docstring(ast.parse(p.read_text()))]
    assert not _names(empty)


def test_test_names_are_sentences() -> None:
    """At least three words after `test_`, so that a failure can be read aloud."""
    short = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in TESTS
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and node.name.count("_") < 3
    ]
    assert not short


@pytest.mark.parametrize("path", [p for p in PRODUCT if p.parent.name == "flows" and p.stem != "__init__"], ids=str)
def test_a_flow_has_a_module_of_its_own_and_reads_as_the_process(path: Path) -> None:
    """One flow, named as its module, of at most 30 lines; beside it only constants, errors and private names."""
    public = [
        node
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_")
    ]
    assert [node.name for node in public] == [path.stem]
    (flow,) = public
    assert any("flow(" in ast.unparse(decorator) for decorator in flow.decorator_list)
    body = flow.body[1:]  # without the docstring
    assert body[-1].end_lineno is not None
    assert body[-1].end_lineno - body[0].lineno + 1 <= 30


@pytest.mark.parametrize(
    ("what", "pattern"),
    [
        ("work left over", r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b|NotImplemented" + r"Error"),
        ("a place on somebody's machine", r"/(home|Users|work)/[a-z]|/tm" + r"p/|/root/"),
        ("a registry's host", r"pypi\.(org|io)|pythonhosted|registry\.(npmjs|hub)|index-url https?:|ghcr\.io|quay\.io"),
        ("a trouble swallowed", r"except (Exception|BaseException)?:\s*\n?\s*pass\b"),
    ],
)
def test_nothing_is_left_behind(what: str, pattern: str) -> None:
    """Tests may name such things to see how they are met."""
    found = []
    for path in FILES:
        if path in TESTS or path.suffix in {".png", ".parquet", ".ico"}:
            continue
        text = path.read_text(errors="replace")
        found += [
            f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, m.start()) + 1}" for m in re.finditer(pattern, text)
        ]
    assert not found, what


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_pins_and_hashes_everything_and_names_no_host(name: str) -> None:
    text = (ROOT / name).read_text().replace("\\\n", " ")
    entries = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert entries
    assert not [line for line in entries if "==" not in line or "--hash=sha256:" not in line]
    assert "://" not in text


def test_what_is_tested_is_what_runs() -> None:
    """The development lock contains the runtime's, which contains the model server's."""
    runtime, dev, server = (
        set(re.findall(r"^\S+==\S+", (ROOT / name).read_text(), re.MULTILINE)) for name in LOCKS[:3]
    )
    assert server < runtime < dev


def test_ci_runs_the_commands_that_people_run() -> None:
    """Whatever a workflow does is in .ci/run, and that calls make."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    steps = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    assert steps == [".ci/run"]
    script = (ROOT / ".ci" / "run").read_text()
    assert re.search(r"^make check$", script, re.MULTILINE)
    assert re.search(r"^make test\b", script, re.MULTILINE)
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()
