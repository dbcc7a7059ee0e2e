"""Types that the other packages share: the task of a model, its labels, and the columns that are not features."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, StrictBool, StrictInt, StrictStr

Task = Literal["binary", "multiclass", "regression"]
Label = StrictBool | StrictInt | StrictStr


class Columns(BaseModel):
    """The columns of a row that are not features, by their names in the project's data."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    time: str
    id: str
    key: str | None = None
    target: str
