"""Converts columns to the kinds that `schema.yaml` declares. Ingest, training, the pipeline and the replay all convert
here, so that a cell means the same wherever it is read; `trimtab.data.features` spells categories for models."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pandas as pd

from trimtab.data.features import texts

ColumnKind = Literal["number", "category", "time", "id"]

NO_NUMBER = frozenset({"", "na", "n/a", "nan", "null", "none", "-", "?"})
"""Texts, in lower case, that stand for a missing number. In a category they are values: NA is Namibia."""


def convert(values: pd.Series[Any], kind: ColumnKind) -> pd.Series[Any]:
    """*values* with the type of *kind*, same index; missing where a value is missing or is none of that kind.

    A number is float64, and neither infinite, nor a time or a duration: those have no unit. A time is datetime64[us] in
    UTC, without a zone. A category or an id is text.
    """
    if kind == "number":
        return _numbers(values)
    if kind == "time":
        times = pd.to_datetime(values, errors="coerce", utc=True, format="ISO8601")
        return times.dt.tz_localize(None).astype("datetime64[us]")
    return pd.Series(texts(values.tolist()), dtype="str", index=values.index)


def from_text(values: pd.Series[Any], *, decimal: str = ".", thousands: str | None = None) -> pd.Series[Any]:
    """The numbers that are written in *values*, as float64, with NO_NUMBER as missing; the texts when one is no number.

    >>> from_text(pd.Series(["1.234,5", ""]), decimal=",", thousands=".").tolist()
    [1234.5, nan]
    """
    written = values.str.strip()
    if thousands:
        grouped = written.str.match(rf"[+-]?\d{{1,3}}(?:\{thousands}\d{{3}})+(?:\{decimal}\d*)?$", na=False)
        written = written.where(~grouped, written.str.replace(thousands, "", regex=False))
    if decimal != ".":
        # A point is then no decimal mark: 1.5 is no number, and must not become one.
        written = written.where(~written.str.contains(".", regex=False, na=False), "not a number")
        written = written.str.replace(decimal, ".", regex=False)
    numbers = pd.to_numeric(written, errors="coerce")
    present = values.where(~values.map(_is_no_number))
    return present if bool((numbers.isna() & present.notna()).any()) else numbers.astype("float64")


def _numbers(values: pd.Series[Any]) -> pd.Series[Any]:
    if pd.api.types.is_datetime64_any_dtype(values.dtype) or pd.api.types.is_timedelta64_dtype(values.dtype):
        return pd.Series(np.nan, index=values.index, dtype="float64")
    numbers = pd.to_numeric(values, errors="coerce").astype("float64")
    return numbers.where(np.isfinite(numbers))


def _is_no_number(value: object) -> bool:
    return isinstance(value, str) and value.strip().lower() in NO_NUMBER
