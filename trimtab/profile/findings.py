"""What was found in a table, as text for a terminal and as the sections of params.yaml that follow from it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

import yaml

from trimtab.config.sections import CsvConfig
from trimtab.profile.table import TableProfile

WIDTH = 80
_INDENT = " " * 4


def format_findings(found: TableProfile, rows: int, csv: CsvConfig | None) -> str:
    """The findings for people: every assumption with its reason and the key that changes it, then params.yaml."""
    return "\n".join([*_lines(found, rows), "", *_params_lines(found, csv)])


def _lines(found: TableProfile, rows: int) -> Iterator[str]:
    yield f"{rows:,} rows looked at, {len(found.columns)} columns"
    yield ""
    for guess in found.guesses:
        doubt = "" if guess.sure else " (a guess: check it)"
        yield from _wrapped(f"{guess.key}: {guess.value}{doubt}", guess.reason)
    for name, column in found.columns.items():
        spelled = ", ".join(map(repr, column.missing))
        if spelled and name not in found.left_out:
            yield from _wrapped(f"{name}: {spelled} counted as missing", "source.csv.missing changes it")
        if column.sentinels:
            numbers = ", ".join(f"{number:g}" for number in column.sentinels)
            yield from _wrapped(f"{name}: {numbers} may stand for missing", "far outside of all other values")
    if found.left_out:
        yield ""
        yield "Left out; name a column under columns.number or columns.category to use it:"
        for name, why in found.left_out.items():
            yield from _wrapped(f"  {name}", why)


def _wrapped(what: str, why: str) -> Iterator[str]:
    yield from textwrap.wrap(f"{what}: {why}", WIDTH, subsequent_indent=_INDENT, break_long_words=False)


def _params_lines(found: TableProfile, csv: CsvConfig | None) -> Iterator[str]:
    yield "# params.yaml, as far as the table says"
    if len(found.time.columns) > 1:
        yield f"# The source has to make the column time of {', '.join(found.time.columns)}."
    if found.id is None:
        yield "# The source has to make the column row_id, which names a row and stays the same."
    for section, content in params_of(found, csv).items():
        text = yaml.safe_dump(
            {section: content}, sort_keys=False, allow_unicode=True, width=WIDTH - 10, default_flow_style=None
        )
        yield from text.rstrip().splitlines()


def params_of(found: TableProfile, csv: CsvConfig | None) -> dict[str, Any]:
    """The sections of params.yaml that follow: project, source (where it is a CSV), columns, period and gate."""
    project: dict[str, Any] = {"task": found.target.task}
    if found.target.negative is not None and found.target.positive is not None:
        project |= {"negative": found.target.negative, "positive": found.target.positive}
    columns: dict[str, Any] = {
        "target": found.target_name,
        "time": found.time.columns[0] if len(found.time.columns) == 1 else "time",
        "id": found.id or "row_id",
        **({"key": found.key} if found.key else {}),
        "number": list(found.numbers),
        "category": list(found.categories),
    }
    calendar, delay = found.calendar, found.label_delay
    period = {
        "every": calendar.every,
        "start": str(calendar.first),
        "first_train": str(calendar.first_train),
        "label_delay": f"{delay.days if delay else 1}d",
    }
    sections: dict[str, Any] = {"project": project, "columns": columns, "period": period}
    if csv is not None and (written := csv.model_dump(exclude_defaults=True)):
        sections["source"] = {"csv": written}
    return sections


def as_json(found: TableProfile, rows: int, csv: CsvConfig | None) -> dict[str, Any]:
    """The findings for programs."""
    return {
        "rows": rows,
        "assumptions": [
            {"key": g.key, "value": g.value, "reason": g.reason, "sure": g.sure} for g in found.guesses
        ],
        "columns": {name: {"content": c.content, "reason": c.reason, "missing_share": c.missing_share}
                    for name, c in found.columns.items()},
        "left_out": dict(found.left_out),
        "params": params_of(found, csv),
    }  # fmt: skip
