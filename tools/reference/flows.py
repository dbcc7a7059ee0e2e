"""The page on flows and their parameters, from signatures and docstrings."""

from __future__ import annotations

import ast
import re

from tools.reference.tables import ROOT, Incomplete, table

_ARGUMENT = re.compile(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)


def flows_page() -> str:
    """Every flow with its parameters. Raises Incomplete where one has no description."""
    parts = [
        "# Flows",
        "`trimtab run FLOW -p name=value` runs a flow here and now, "
        "`prefect deployment run FLOW/on-request -p name=value` on a worker. "
        "What else starts them: [events and deployments](events.md).",
    ]
    for path in sorted((ROOT / "flows").glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and any(_is_flow(decorator) for decorator in node.decorator_list):
                parts += _flow(node)
    return "\n\n".join(parts)


def _is_flow(decorator: ast.expr) -> bool:
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return isinstance(called, ast.Name) and called.id == "flow"


def _flow(node: ast.FunctionDef) -> list[str]:
    title = node.name.replace("_", "-")
    about, _, described = (ast.get_docstring(node) or "").partition("Args:")
    known = {name: re.sub(r"\s+", " ", text).strip() for name, text in _ARGUMENT.findall(described)}
    defaults = [None] * (len(node.args.args) - len(node.args.defaults)) + list(node.args.defaults)
    rows = []
    for argument, default in zip(node.args.args, defaults, strict=True):
        if argument.arg not in known:
            raise Incomplete(f"flow {title}: its docstring does not describe {argument.arg}")
        shown = "required" if default is None else _shown(default)
        rows.append([f"`{argument.arg}`", known[argument.arg], shown])
    parts = [f"## {title}", re.sub(r"\s+", " ", about).strip()]
    return [*parts, table(["parameter", "meaning", "default"], rows)] if rows else parts


def _shown(default: ast.expr) -> str:
    value = ast.literal_eval(default)
    if value is None:
        return "none"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"
