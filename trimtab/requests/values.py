"""Single values of a request: the error that names a bad one, and how ids and times are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np

from trimtab.requests.rows import Micros

ABSENT: Final = object()
"""Stands in a column for a field that a row does not have, which is not the same as null."""

NO_TIME: Final = "must be a time like 2013-03-01T05:00:00Z, between 1700 and 2261"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAIVE_EPOCH = _EPOCH.replace(tzinfo=None)
_MICROSECOND = timedelta(microseconds=1)


class BadInput(ValueError):
    """A request's rows are not valid. *row* and *field* are None when the problem is not in one row or field."""

    def __init__(self, problem: str, *, row: int | None = None, field: str | None = None, got: Any = None) -> None:
        super().__init__(f"row {row}, field {field}: {problem}")
        self.problem, self.row, self.field, self.got = problem, row, field, got


def with_article(values: str) -> str:
    """A feature's ``values`` as an error message names it: "number" is "a number"."""
    return {"number": "a number", "boolean": "true or false", "text": "text", "integer": "an integer"}[values]


def id_texts(name: str, values: Sequence[Any]) -> list[str | None]:
    """The ids or keys of the column *name* as text; None where they are missing. Raises BadInput for other types.

    >>> id_texts("tailnum", ["N14228", 7, None])
    ['N14228', '7', None]
    """
    kinds = set(map(type, values))
    if kinds <= {str}:
        return list(values)
    for i, value in enumerate(values):
        if value is not None and value is not ABSENT and type(value) not in (str, int):
            raise BadInput("must be text or an integer", row=i, field=name, got=value)
    return [None if v is None or v is ABSENT else str(v) for v in values]


def parse_times(name: str, values: Sequence[Any] | None, size: int, now_us: int) -> Micros:
    """The times of the column *name* in UTC microseconds since 1970, shape (size,).

    A time is ISO 8601 text; without an offset it is UTC. A missing one becomes *now_us*. Rows often share a time, so
    each distinct text is parsed once. Raises BadInput.
    """
    if values is None:
        return np.full(size, now_us, dtype=np.int64)
    try:
        known = {v: now_us if v is None or v is ABSENT else parse_time(v) for v in dict.fromkeys(values)}
    except (TypeError, ValueError):
        row, value, error = next(_bad_times(values))
        raise BadInput(
            "must be a time like 2013-03-01T05:00:00Z, between 1700 and 2261", row=row, field=name, got=value
        ) from error
    return np.array([known[value] for value in values], dtype=np.int64)


def _bad_times(values: Sequence[Any]) -> Iterator[tuple[int, Any, Exception]]:
    for row, value in enumerate(values):
        try:
            if value is not None and value is not ABSENT:
                parse_time(value)
        except (TypeError, ValueError) as error:
            yield row, value, error


def parse_time(text: str) -> int:
    """ISO 8601 *text* in UTC microseconds since 1970. Raises ValueError, also for a time before 1700 or after 2261, or
    TypeError when it is not text.

    >>> parse_time("1970-01-01T01:00:00.5+01:00")
    500000
    """
    found = to_micros(datetime.fromisoformat(text))
    if not FIRST_US <= found <= LAST_US:
        raise ValueError(f"{text} is not between 1700 and 2261")
    return found


def to_micros(moment: datetime) -> int:
    """UTC microseconds since 1970. A *moment* without an offset is UTC."""
    return (moment - (_EPOCH if moment.tzinfo else _NAIVE_EPOCH)) // _MICROSECOND


FIRST_US: Final = to_micros(datetime(1700, 1, 1, tzinfo=UTC))
LAST_US: Final = to_micros(datetime(2261, 12, 31, 23, 59, 59, tzinfo=UTC))
"""The data times that are taken: those that pandas' nanoseconds and a prediction's id can hold."""
