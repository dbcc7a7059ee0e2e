"""What each column of a table holds, found by looking at its values."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from trimtab.profile.number_formats import NumberFormat, find_number_format
from trimtab.profile.time_formats import TimeFormat, find_time_format

Content = Literal["number", "boolean", "time", "category", "text", "identifier", "constant", "empty"]

MISSING_SPELLINGS = ("", "-", "--", "?", ".", "N/A", "n/a", "#N/A", "NaN", "nan", "NULL", "null", "None", "NA")
"""Texts that stand for a missing value wherever the rest of a column does not look like them."""

NEARLY_EMPTY = 0.98  # a larger share of missing values leaves nothing to learn from
MANY_LEVELS = 200  # more levels than this are said to be many
_SENTINELS = (-1.0, 99.0, 999.0, 9999.0, 99999.0, -9.0, -99.0, -999.0, -9999.0)
_PAIRS = ({"yes", "no"}, {"true", "false"}, {"y", "n"}, {"t", "f"}, {"on", "off"})
_CODE = re.compile(r"0\d+")


@dataclass(frozen=True)
class ColumnProfile:
    """One column: what it holds, why that is assumed, and how its values are written.

    *missing* are the spellings of missing values that occur, the empty one aside. *sentinels* are numbers that look
    like stand-ins for a missing value, such as 999; they are reported and not applied.
    """

    name: str
    content: Content
    reason: str
    levels: int
    missing_share: float
    missing: tuple[str, ...] = ()
    sentinels: tuple[float, ...] = ()
    number: NumberFormat | None = None
    time: TimeFormat | None = None

    def clean(self, values: pd.Series[Any]) -> pd.Series[Any]:
        """*values* as float64 (numbers, booleans), datetime64 (times) or str, with missing ones as missing."""
        present = values.where(~is_missing(values, self.missing))
        match self.content:
            case "time" if self.time is not None:
                return self.time.parse(present)
            case "number" if self.number is not None and not pd.api.types.is_numeric_dtype(values.dtype):
                return present.map(self.number.parse, na_action="ignore").astype("float64")
            case "number":
                return present.astype("float64")
            case "boolean" if self.number is not None:
                return pd.to_numeric(present).astype("float64")
            case _:
                return present.astype("str").where(present.notna())


def is_missing(values: pd.Series[Any], spellings: tuple[str, ...]) -> pd.Series[bool]:
    """Which of *values* are missing: None, NaN, NaT, an empty text, or one of *spellings*."""
    missing = values.isna()
    if _holds_text(values):
        missing |= values.isin(["", *spellings])
    return missing


def profile_column(values: pd.Series[Any]) -> ColumnProfile:
    """What the column *values* holds. Texts are looked at as they are written, as in a CSV read without conversion."""
    spelled = _missing_spellings(values)
    missing = is_missing(values, spelled)
    present = values[~missing]
    base = ColumnProfile(
        name=str(values.name),
        content="empty",
        reason="every value is missing",
        levels=int(present.nunique()),
        missing_share=float(missing.mean()) if len(values) else 1.0,
        missing=tuple(text for text in spelled if text),
    )
    if base.missing_share > NEARLY_EMPTY:
        return base if present.empty else replace(base, reason=f"{base.missing_share:.1%} of the values are missing")
    if base.levels == 1 and base.missing_share < 1 - NEARLY_EMPTY:  # with gaps, being there may say something
        return replace(base, content="constant", reason=f"the only value is {_shown(present.iloc[0])}")
    if (pair := _boolean_pair(present)) is not None:
        is_number = set(present.astype("str").str.removesuffix(".0").unique()) == {"0", "1"}
        how = NumberFormat() if is_number else None
        return replace(base, content="boolean", reason=f"the only values are {pair}", number=how)
    if (time := find_time_format(present)) is not None:
        reason = f"every value is a time, written as {time.pattern or time.notation}"
        return replace(base, content="time", reason=reason, time=time)
    return _numbers(base, values, present) or _texts(base, len(values), present.astype("str"))


def _numbers(base: ColumnProfile, values: pd.Series[Any], present: pd.Series[Any]) -> ColumnProfile | None:
    """The profile of a column of numbers; None when it is none. 01000 is a code: as a number it would be 1000."""
    how: NumberFormat | None = NumberFormat()
    if not pd.api.types.is_numeric_dtype(values.dtype):
        texts = present.astype("str")
        is_code = bool(texts.map(lambda text: bool(_CODE.fullmatch(text))).any())
        how = None if is_code else find_number_format(texts.tolist())
        present = texts.map(how.parse) if how is not None else present
    if how is None:
        return None
    numbers = present.to_numpy(dtype=np.float64)
    is_whole, is_each_once = bool(np.all(numbers % 1 == 0)), base.levels == len(values)
    if is_whole and is_each_once and len(values) > 1 and (np.diff(np.sort(numbers)) == 1).mean() > 0.9:
        reason = "whole numbers, one after the other, each in one row"
        return replace(base, content="identifier", reason=reason, number=how)
    reason = f"{'whole ' if is_whole else ''}numbers from {numbers.min():g} to {numbers.max():g}"
    return replace(base, content="number", reason=reason, number=how, sentinels=_sentinels(numbers))


def _texts(base: ColumnProfile, size: int, texts: pd.Series[Any]) -> ColumnProfile:
    if base.levels == size:
        return replace(base, content="identifier", reason="every row has another value")
    words = texts.str.count(r"\s") + 1
    if base.levels > 0.5 * len(texts) and words.mean() >= 3:
        return replace(base, content="text", reason=f"{words.mean():.0f} words a value, hardly any twice")
    many = ", which are many" if base.levels > MANY_LEVELS else ""
    return replace(base, content="category", reason=f"texts with {base.levels:,} levels{many}")


def _sentinels(values: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float, ...]:
    """Values of the usual stand-ins that occur often and lie outside all others by more than their whole range, or are
    negative in a column of counts or amounts."""
    found = []
    for sentinel in _SENTINELS:
        at = values == sentinel
        rest = values[~at]
        if not 0.002 < at.mean() < 0.9 or len(np.unique(rest)) < 3:
            continue
        low, high = float(rest.min()), float(rest.max())
        is_outside = low - sentinel > high - low or sentinel - high > high - low
        if is_outside or (sentinel < 0 <= low and high - low > 20):
            found.append(sentinel)
    return tuple(found)


def _missing_spellings(values: pd.Series[Any]) -> tuple[str, ...]:
    if not _holds_text(values):
        return ()
    counts = values.value_counts()
    found = [text for text in MISSING_SPELLINGS if text in counts.index]
    others = [str(text) for text in counts.index if text not in MISSING_SPELLINGS]
    if "NA" in found and any(re.fullmatch(r"[A-Z]{2}", text) for text in others):
        found.remove("NA")  # codes of two letters: NA is Namibia
    return tuple(found) if others else ("", *found)


def _boolean_pair(present: pd.Series[Any]) -> str | None:
    if pd.api.types.is_bool_dtype(present.dtype):
        return "true and false"
    seen = {str(value).strip().lower().removesuffix(".0") for value in present.unique()[:3]}
    if seen in (*_PAIRS, {"0", "1"}):
        return " and ".join(sorted(map(str, present.unique())))
    return None


def _holds_text(values: pd.Series[Any]) -> bool:
    return bool(pd.api.types.is_object_dtype(values.dtype) or pd.api.types.is_string_dtype(values.dtype))


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
