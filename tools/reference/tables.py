"""Markdown tables, and the error that the pages share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Incomplete(Exception):
    """The code and the descriptions in tools/reference name different things; the message says which."""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("\n", " ").replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def check_complete(what: str, found: Iterable[str], described: Iterable[str]) -> None:
    """Raise Incomplete unless exactly what was *found* is *described*."""
    if missing := sorted(set(found) - set(described)):
        raise Incomplete(f"{what} without a description in tools/reference: {', '.join(missing)}")
    if gone := sorted(set(described) - set(found)):
        raise Incomplete(f"{what} described in tools/reference and no longer in the code: {', '.join(gone)}")
