"""How times are written in a column: ISO 8601, another calendar format, a year, a month, seconds since 1970."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

TimeNotation = Literal["ISO 8601", "calendar", "year", "month", "seconds", "milliseconds"]
_CALENDAR = (
    "%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%d-%m-%Y", "%m-%d-%Y", "%d-%b-%Y",
    "%d %b %Y", "%b %d, %Y", "%B %d, %Y", "%Y%m%d", "%d.%m.%y", "%m/%d/%y", "%d/%m/%y",
)  # fmt: skip
_CLOCK = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p", " %H:%M:%S.%f")
_EARLIEST, _LATEST = pd.Timestamp("1900-01-01"), pd.Timestamp("2100-01-01")


@dataclass(frozen=True)
class TimeFormat:
    """How the times of a column are written; *pattern* is strptime's, for calendar formats.

    *alternatives* are other formats that read every value as well, like day and month in the other order.
    """

    notation: TimeNotation
    pattern: str | None = None
    alternatives: tuple[str, ...] = ()

    def parse(self, values: pd.Series[Any]) -> pd.Series[Any]:
        """*values* as UTC times without a zone; missing where a value is not written like this. Same index."""
        match self.notation:
            case "year":
                years = pd.to_numeric(values, errors="coerce")
                whole = years.where((years >= 1000) & (years <= 9999) & (years % 1 == 0))
                found = pd.to_datetime(whole.map(lambda y: f"{int(y)}-01-01", na_action="ignore"), errors="coerce")
            case "seconds" | "milliseconds":
                unit: Literal["s", "ms"] = "s" if self.notation == "seconds" else "ms"
                found = pd.to_datetime(pd.to_numeric(values, errors="coerce"), unit=unit, errors="coerce")
            case "month":
                found = pd.to_datetime(values, format=self.pattern, errors="coerce")
            case "calendar":
                found = pd.to_datetime(values, format=self.pattern, errors="coerce")
            case _:
                found = pd.to_datetime(values, format="ISO8601", utc=True, errors="coerce")
        if isinstance(found.dtype, pd.DatetimeTZDtype):
            found = found.dt.tz_convert("UTC").dt.tz_localize(None)
        return found.astype("datetime64[us]")


def find_time_format(values: pd.Series[Any], *, tolerated_share: float = 0.01) -> TimeFormat | None:
    """The format in which *values* (without missing ones) are times between 1900 and 2100; None when there is none.

    Up to *tolerated_share* of the values may be written otherwise. Numbers are times only as years, YYYYMM months,
    YYYYMMDD days or seconds and milliseconds since 1970 that vary.
    """
    if values.empty:
        return None
    if pd.api.types.is_datetime64_any_dtype(values.dtype):
        return TimeFormat("ISO 8601")
    if pd.api.types.is_bool_dtype(values.dtype):
        return None
    texts = values.astype("str")
    fitting = [form for form in _candidates(texts) if _reads(form, texts, tolerated_share)]
    if not fitting:
        return None
    first = fitting[0]
    others = tuple(str(form.pattern) for form in fitting[1:] if form.notation == first.notation == "calendar")
    return TimeFormat(first.notation, first.pattern, others)


def _candidates(texts: pd.Series[Any]) -> Sequence[TimeFormat]:
    probe = str(texts.iloc[0]).strip()
    digits = probe.removesuffix(".0")
    if digits.isdigit():
        by_length = {
            4: [TimeFormat("year")],
            6: [TimeFormat("month", "%Y%m")],
            8: [TimeFormat("calendar", "%Y%m%d")],
            10: [TimeFormat("seconds")],
            13: [TimeFormat("milliseconds")],
        }
        return by_length.get(len(digits), [])
    if not any(character.isdigit() for character in probe):
        return []
    month = [TimeFormat("month", pattern) for pattern in ("%Y-%m", "%Y/%m", "%m/%Y", "%b %Y")]
    calendar = [TimeFormat("calendar", day + clock) for day in _CALENDAR for clock in _CLOCK]
    sample = texts.iloc[: min(20, len(texts))]
    return [form for form in (*month, TimeFormat("ISO 8601"), *calendar) if form.parse(sample).notna().all()]


def _reads(form: TimeFormat, texts: pd.Series[Any], tolerated_share: float) -> bool:
    times = form.parse(texts)
    plausible = (times >= _EARLIEST) & (times < _LATEST)
    enough = plausible.mean() >= 1 - tolerated_share
    return bool(enough and (form.notation != "year" or _are_years(times)))


def _are_years(times: pd.Series[Any]) -> bool:
    """Four digits are years when there are few of them: at most one value in every year of their span."""
    years = np.unique(times.dropna().dt.year.to_numpy())
    return bool(len(years) >= 2 and years[-1] - years[0] < 200 and years[0] >= 1900)
