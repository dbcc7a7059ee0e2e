"""The features of a model and the frames made of them.

Training, serving and monitoring all build their frames here, so a value means the same to a model everywhere.
`trimtab.requests.parser` parses the rows of clients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    import pandas as pd

ValueType = Literal["number", "boolean", "text", "integer"]


class Feature(BaseModel):
    """One input of a model. *values* says what a client may send for it: text, integers or booleans for a category,
    numbers or booleans for a number. The default is text for a category and number for a number."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    kind: Literal["number", "category"]
    values: ValueType = "number"
    nullable: bool = True

    @model_validator(mode="before")
    @classmethod
    def _values_follow_kind(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and "values" not in data and data.get("kind") == "category":
            return {**data, "values": "text"}
        return data

    @model_validator(mode="after")
    def _values_fit_kind(self) -> Feature:
        fitting = ("number", "boolean") if self.kind == "number" else ("text", "integer", "boolean")
        if self.values not in fitting:
            raise ValueError(f"feature {self.name!r}: a {self.kind} cannot have {self.values} values")
        return self


def describe(table: pd.DataFrame, *, number: Iterable[str] = (), category: Iterable[str] = ()) -> tuple[Feature, ...]:
    """The features of *table* named by *number* and *category*, with `values` inferred from the columns' types.

    Every feature is nullable, as a model trained without missing values may meet one when it serves. Raises TypeError
    when a column of *number* is not numeric.
    """
    numeric = [Feature(name=n, kind="number", values=_number_values(n, table[n])) for n in number]
    return (*numeric, *(Feature(name=n, kind="category", values=_category_values(table[n])) for n in category))


def _number_values(name: str, column: pd.Series[Any]) -> ValueType:
    from pandas.api import types

    if types.is_bool_dtype(column.dtype):
        return "boolean"
    if not types.is_numeric_dtype(column.dtype):
        raise TypeError(f"feature {name!r} is said to be a number but holds {column.dtype}")
    return "number"


def _category_values(column: pd.Series[Any]) -> ValueType:
    """The values of a category. pandas turns integers into floats when one is missing, so numeric means integer."""
    import pandas as pd
    from pandas.api import types

    dtype = column.cat.categories.dtype if isinstance(column.dtype, pd.CategoricalDtype) else column.dtype
    if types.is_bool_dtype(dtype):
        return "boolean"
    return "integer" if types.is_numeric_dtype(dtype) else "text"


def frame(rows: pd.DataFrame | Sequence[Mapping[str, Any]], features: Sequence[Feature]) -> pd.DataFrame:
    """The frame that a model sees: exactly *features*, in their order, with a new RangeIndex, shape (n, features).

    Numbers are float64 and categories pandas' ``str``. None, NaN, NA and NaT become nan in both. A category that is an
    integer or boolean becomes "3" or "true", also when missing values had made it a float. A mapping may lack a
    feature, which is then missing; a frame may not (KeyError). The input is not changed.

    >>> frame([{"seats": 3}, {}], [Feature(name="seats", kind="category", values="integer")])["seats"].tolist()
    ['3', nan]
    """
    import pandas as pd

    if isinstance(rows, pd.DataFrame):
        columns: dict[str, Any] = {
            f.name: _numbers(rows[f.name]) if f.kind == "number" else _texts(rows[f.name]) for f in features
        }
        return assemble(columns, features, size=len(rows))
    listed = {f.name: [row.get(f.name) for row in rows] for f in features}
    return assemble(
        {f.name: numbers(listed[f.name]) if f.kind == "number" else texts(listed[f.name]) for f in features},
        features,
        size=len(rows),
    )


def assemble(columns: Mapping[str, Any], features: Sequence[Feature], *, size: int) -> pd.DataFrame:
    """A frame of clean columns: float64 arrays of shape (size,) for numbers, lists of str or None for categories."""
    import pandas as pd

    index = pd.RangeIndex(size)
    return pd.DataFrame(
        {
            f.name: columns[f.name] if f.kind == "number" else pd.Series(columns[f.name], dtype="str", index=index)
            for f in features
        },
        index=index,
        copy=False,
    )


def columns_of(rows: pd.DataFrame, features: Sequence[Feature]) -> dict[str, Any]:
    """The clean columns of *features* in *rows*, as `assemble` takes them. Raises KeyError when one is missing."""
    table = frame(rows, features)
    return {
        f.name: table[f.name].to_numpy()
        if f.kind == "number"
        else [text if isinstance(text, str) else None for text in table[f.name].tolist()]
        for f in features
    }


def numbers(values: Sequence[Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Python numbers and booleans as float64, None as nan; shape (n,).

    Raises OverflowError for an integer that no float64 can hold.
    """
    return np.array(values, dtype=np.float64)


def texts(values: Sequence[Any]) -> list[str | None]:
    """Category values as text in one canonical form; None where they are missing.

    >>> texts(["JFK", 3, 3.0, True, float("nan")])
    ['JFK', '3', '3', 'true', None]
    """
    if set(map(type, values)) <= {str, type(None)}:
        return list(values)
    return [_text(value) for value in values]


def _text(value: Any) -> str | None:
    match value:
        case str() | None:
            return value
        case bool() | np.bool_():
            return "true" if value else "false"
        case float() | np.floating():
            if np.isnan(value):
                return None
            return str(int(value)) if float(value).is_integer() else str(float(value))
        case _:
            return None if type(value).__name__ in ("NAType", "NaTType") else str(value)


def _numbers(column: pd.Series[Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return column.to_numpy(dtype=np.float64, na_value=np.nan)


def _texts(column: pd.Series[Any]) -> pd.Series[Any] | list[str | None]:
    import pandas as pd

    if isinstance(column.dtype, pd.StringDtype):
        return column.astype("str").reset_index(drop=True)
    if isinstance(column.dtype, pd.CategoricalDtype):
        spelled = np.array([*texts(column.cat.categories.tolist()), None], dtype=object)
        return list(spelled[column.cat.codes.to_numpy()])
    return texts(column.tolist())
