"""Markdown tables, and the error that the pages share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Incomplete(Exception):
    """The code and the descriptions in tools/reference name different things; the message says which."""


_BRACES = re.compile(r"(?<!`)\{\w+\}(?!`)")  # outside code, the site would take them for attributes and drop them


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(text) for text in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return _BRACES.sub(r"`\g<0>`", text.replace("\n", " ").replace("|", "\\|"))


def check_complete(what: str, found: Iterable[str], described: Iterable[str]) -> None:
    """Raise Incomplete unless exactly what was *found* is *described*."""
    if missing := sorted(set(found) - set(described)):
        raise Incomplete(f"{what} without a description in tools/reference: {', '.join(missing)}")
    if gone := sorted(set(described) - set(found)):
        raise Incomplete(f"{what} described in tools/reference and no longer in the code: {', '.join(gone)}")
