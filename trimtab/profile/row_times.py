"""Which column, or which columns together, say when a row happened."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from trimtab.profile.columns import ColumnProfile

_WORDS = re.compile(r"time|date|stamp|created|started|_at$|^at_|^ts$|_ts$|^dt$|when", re.IGNORECASE)
_NOT_ROW = re.compile(r"birth|built|build|dob|remod|expir|due|clos|end|finish|updat|deliver|return|paid", re.IGNORECASE)
_PARTS = {
    "year": re.compile(r"^(.*[._ ])?(year|yr|yyyy|jahr)([._ ].*)?$", re.IGNORECASE),
    "month": re.compile(r"^(.*[._ ])?(month|mnth|mon|mo|mm)([._ ].*)?$", re.IGNORECASE),
    "day": re.compile(r"^(day|dd|day[._ ]?of[._ ]?month|mday)$", re.IGNORECASE),
    "hour": re.compile(r"^(hour|hr|hh)$", re.IGNORECASE),
}
_RANGES = {"year": (1900, 2100), "month": (1, 12), "day": (1, 31), "hour": (0, 23)}


@dataclass(frozen=True)
class RowTime:
    """When a row happened: one column of times, or columns of years, months, days and hours, in that order.

    *alternatives* are the other columns that could say so; *sure* is False where a person should be asked.
    """

    columns: tuple[str, ...]
    reason: str
    alternatives: tuple[str, ...] = ()
    sure: bool = True

    def parse(self, frame: pd.DataFrame, profiles: Mapping[str, ColumnProfile]) -> pd.Series[Any]:
        """The times of the rows of *frame*, UTC, missing where a row has none."""
        if len(self.columns) == 1:
            return profiles[self.columns[0]].clean(frame[self.columns[0]])
        parts = dict(zip(("year", "month", "day", "hour"), self.columns, strict=False))
        numbers = {part: pd.to_numeric(frame[name], errors="coerce") for part, name in parts.items()}
        numbers.setdefault("day", pd.Series(1, index=frame.index))
        return pd.to_datetime(pd.DataFrame(numbers), errors="coerce").astype("datetime64[us]")


def find_row_times(frame: pd.DataFrame, profiles: Mapping[str, ColumnProfile], *, target: str) -> RowTime | None:
    """The best candidate of all columns but *target*; None when nothing says when a row happened.

    Complete columns come first, then those that rise with the rows, then those named like a time. A year that has a
    month beside it, of the same table, is a part of a time and not one.
    """
    single = [c for c in profiles.values() if c.content == "time" and c.name != target]
    whole = [c for c in single if c.time is not None and c.time.notation != "year"]
    ranked = sorted(whole, key=lambda column: _rank(frame, column), reverse=True)
    if ranked and _rank(frame, ranked[0])[0]:
        others = tuple(column.name for column in ranked[1:])
        best = ranked[0]
        assert best.time is not None
        double = best.time.alternatives[:1]
        reason = f"times written as {best.time.pattern or best.time.notation}"
        reason += f", which could also be {double[0]}" if double else ""
        clear = not others or _rank(frame, best)[:3] > _rank(frame, ranked[1])[:3]
        return RowTime((best.name,), reason, others, sure=clear and not double)
    if (parts := _parts(frame, profiles, target)) is not None:
        return parts
    years = sorted((c for c in single if c not in whole), key=lambda column: _rank(frame, column), reverse=True)
    if not years:
        return None
    return RowTime((years[0].name,), "years", tuple(c.name for c in years[1:]), sure=len(years) == 1)


def _rank(frame: pd.DataFrame, column: ColumnProfile) -> tuple[bool, bool, float, float]:
    times = column.clean(frame[column.name]).dropna()
    seconds = times.astype("int64").to_numpy(dtype=np.float64)
    rising = float((np.diff(seconds) >= 0).mean()) if len(seconds) > 1 else 0.0
    named = float(bool(_WORDS.search(column.name)))
    earliest = -float(seconds.mean()) if len(seconds) else float("-inf")
    return (
        column.missing_share < 0.01,
        not _NOT_ROW.search(column.name),
        round(max(rising, 0.5), 1) + named / 10,
        earliest,
    )


def _parts(frame: pd.DataFrame, profiles: Mapping[str, ColumnProfile], target: str) -> RowTime | None:
    """A year and a month that are named alike, with a day and an hour where they are there."""
    fits = {
        part: [name for name in profiles if name != target and _is_part(frame[name], profiles[name], part, name)]
        for part in _PARTS
    }
    for year in fits["year"]:
        for month in fits["month"]:
            if _bare(year, "year") != _bare(month, "month"):
                continue
            found = (year, month, *fits["day"][:1], *(fits["hour"][:1] if fits["day"] else ()))
            return RowTime(found, f"{', '.join(found)} together make a time")
    return None


def _is_part(values: pd.Series[Any], profile: ColumnProfile, part: str, name: str) -> bool:
    if not _PARTS[part].match(name) or profile.missing_share > 0.01:
        return False
    numbers = pd.to_numeric(values, errors="coerce")
    return bool(numbers.notna().all() and numbers.between(*_RANGES[part]).all())


def _bare(name: str, part: str) -> str:
    """What is left of a name without the word for the part: "Sold" of "Yr.Sold"."""
    found = _PARTS[part].match(name)
    return re.sub(r"[._ ]", "", (found[1] or "") + (found[3] or "")).lower() if found else name
