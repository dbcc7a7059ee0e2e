"""Who may import whom: the contracts in pyproject.toml hold, and they would notice. And which heavy modules a process
does without, because its start has to be short."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("trimtab", "stores", "tasks", "operations", "flows", "serving", "deployments", "cli")
HEAVY = ("prefect", "mlflow", "evidently", "sklearn", "dvc", "pandas", "matplotlib")


def test_every_room_imports_only_what_it_may() -> None:
    done = _lint_imports(ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("trimtab/intruder.py", "import prefect", "Meaning is pure"),
        ("stores/intruder.py", "def late():\n    import tasks.dataset", "which keep things in stores"),
        ("serving/intruder.py", "import mlflow", "Serving never loads"),
        ("serving/background.py", "import stores.ledger.migrations", "Serving never loads"),
        ("tasks/intruder.py", "import mlflow", "MLflow is spoken in one module"),
        ("tasks/dataset/reading.py", "from trimtab.config.settings import Settings", "Settings are read at the door"),
        ("cli/intruder.py", "import serving.app", "no room imports serving"),
    ],
    ids=[
        "meaning",
        "a late import",
        "serving",
        "migrating serving",
        "a second speaker",
        "settings below the door",
        "the other branch",
    ],
)
def test_an_import_across_the_rooms_is_noticed(tmp_path: Path, module: str, line: str, contract: str) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for room in ROOMS:
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / module).open("a") as file:
        file.write(f"\n{line}\n")
    done = _lint_imports(tmp_path)
    assert done.returncode == 1, done.stdout
    said = " ".join(done.stdout.split())
    assert re.search(rf"{re.escape(contract)}((?!KEPT).)*BROKEN", said), done.stdout


@pytest.mark.parametrize(
    ("code", "without"),
    [
        ("import cli.main", HEAVY),
        ("from deployments import stack; stack.up, stack.down, stack.status", HEAVY),
        ("import serving.app", ("prefect", "mlflow", "evidently", "dvc", "matplotlib")),
        ("import serving.__main__", ("prefect", "mlflow", "evidently", "dvc", "matplotlib")),
        ("import flows.reconcile", ("mlflow", "evidently", "sklearn", "dvc", "matplotlib", "alembic")),
        ("import tasks.tracking, tasks.reports, tasks.dataset", ("mlflow", "evidently", "dvc", "matplotlib")),
    ],
    ids=["the command", "the stack", "the model server", "its process", "reconcile", "the outside world"],
)
def test_a_process_starts_without_what_it_may_never_need(code: str, without: tuple[str, ...]) -> None:
    loaded = _python(f"import sys; {code}; print(*sys.modules)").split()
    assert not sorted(set(loaded) & set(without))


def test_help_is_printed_without_loading_anything_heavy() -> None:
    printed = _python(
        "import atexit, sys; atexit.register(lambda: print('LOADED', *sys.modules));"
        "sys.argv = ['trimtab', '--help']; from cli.main import main; main()"
    )
    words, _, loaded = printed.partition("LOADED")
    assert "Usage: trimtab" in words
    assert not sorted(set(loaded.split()) & set(HEAVY))


def _lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter on the rooms in *folder*, in a process that sees no other copy of them."""
    code = "from importlinter.cli import lint_imports_command as run; run()"
    return _run([sys.executable, "-c", code, "--no-cache"], folder)


def _python(code: str) -> str:
    done = _run([sys.executable, "-c", code], ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Late imports inside functions count too; imports for type checkers only do not."""
    assert _circles(_imports(ROOT)) == []


def test_a_circle_is_found_also_through_a_late_import() -> None:
    assert _circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


def _imports(root: Path) -> dict[str, set[str]]:
    """Module → modules of the product that it imports."""
    paths = {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for room in ROOMS
        for path in (root / room).rglob("*.py")
    }
    found: dict[str, set[str]] = {}
    for module, path in paths.items():
        names: set[str] = set()
        for node in _running(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                names |= {name if name in paths else str(node.module) for name in inner}
        found[module] = (names & paths.keys()) - {module}
    return found


def _running(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those that only a type checker reads."""
    for child in ast.iter_child_nodes(tree):
        if not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
            yield child
            yield from _running(child)


def _circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Sets of modules each of which leads to each other one."""
    reached = {module: _reached(imports, module) for module in imports}
    mutual = {module: {m for m in reached[module] if module in reached.get(m, ())} for module in imports}
    return sorted(map(list, {tuple(sorted(group)) for group in mutual.values() if len(group) > 1}))


def _reached(imports: dict[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    waiting = [*imports[start]]
    while waiting:
        if (module := waiting.pop()) not in seen:
            seen.add(module)
            waiting += imports.get(module, ())
    return seen
