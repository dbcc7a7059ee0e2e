"""Programs that tests run as text name things that exist: no type checker looks into them."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("trimtab", "stores", "tasks", "operations", "flows", "serving", "deployments", "cli", "sources", "tests")


def _programs() -> list[tuple[str, ast.Module]]:
    """Every text in a test that is a Python program which imports one of our modules, with where it stands."""
    found = []
    for path in sorted(set((ROOT / "tests").rglob("*.py")) - {Path(__file__)}):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Constant):
                continue
            text = node.value
            if isinstance(text, str) and "import " in text and any(room in text for room in ROOMS):
                try:
                    program = ast.parse(text)
                except SyntaxError:
                    continue
                if _imports(program):
                    found.append((f"{path.relative_to(ROOT)}:{node.lineno}", program))
    return found


def _imports(program: ast.Module) -> list[ast.Import | ast.ImportFrom]:
    nodes = [n for n in ast.walk(program) if isinstance(n, ast.Import | ast.ImportFrom)]
    return [n for n in nodes if any(_is_ours(name) for name in _modules(n))]


def _modules(node: ast.Import | ast.ImportFrom) -> list[str]:
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] in ROOMS and module != "tests.conftest"


def _file(module: str) -> Path | None:
    path = ROOT / module.replace(".", "/")
    return next((f for f in (path.with_suffix(".py"), path / "__init__.py") if f.is_file()), None)


@cache
def _names(module: str) -> frozenset[str]:
    """What a module has: what it defines or imports, and the modules of its package."""
    path = _file(module)
    assert path is not None
    names = {p.stem for p in path.parent.iterdir()} if path.name == "__init__.py" else set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return frozenset(names)


def _missing(program: ast.Module) -> set[str]:
    """Names of ours that the program imports, or takes from a module of ours, and that do not exist."""
    asked, modules = set[str](), dict[str, str]()
    for node in _imports(program):
        for alias in node.names:
            whole = f"{node.module}.{alias.name}" if isinstance(node, ast.ImportFrom) else alias.name
            asked.add(whole.removesuffix(".*"))
            modules[alias.asname or alias.name] = whole
    for found in ast.walk(program):
        if isinstance(found, ast.Attribute):
            first, _, rest = ast.unparse(found).partition(".")
            if _file(modules.get(first, "")) and rest.replace(".", "").isidentifier():
                asked.add(f"{modules[first]}.{rest}")
    return {name for name in asked if _is_ours(name) and not _exists(name)}


def _exists(name: str) -> bool:
    """Whether *name* is a module, or a name in one; what is inside of other things is not looked at."""
    parts = name.split(".")
    at = next((end for end in range(len(parts), 0, -1) if _file(".".join(parts[:end]))), 0)
    return at == len(parts) or (at > 0 and parts[at] in _names(".".join(parts[:at])))


PROGRAMS = _programs()


def test_there_are_programs_to_check() -> None:
    assert len(PROGRAMS) > 20


@pytest.mark.parametrize("program", [p for _, p in PROGRAMS], ids=[at for at, _ in PROGRAMS])
def test_a_program_in_a_test_names_what_exists(program: ast.Module) -> None:
    assert not _missing(program)


def test_a_name_that_is_gone_is_found() -> None:
    lines = ["from tasks import dataset", "dataset.reading.opened(1)", "dataset.listing(2)", "dataset.reading.read(3)"]
    assert _missing(ast.parse("\n".join(lines))) == {"tasks.dataset.reading.opened"}
    assert _missing(ast.parse("from stores.ledger import Nothing\nNothing.at_all")) == {"stores.ledger.Nothing"}
