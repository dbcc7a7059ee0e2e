"""Types that the other packages share: the task of a model, its labels, and the columns that are not features."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, StrictBool, StrictInt, StrictStr

Task = Literal["binary", "multiclass", "regression"]
Label = StrictBool | StrictInt | StrictStr


RESERVED_NAMES = frozenset(
    {
        *("prediction_id", "time", "received_at", "release", "arm", "rollout", "propensity"),
        *("prediction", "predicted_label", "probabilities", "label", "label_time"),
    }
)
"""Columns of telemetry. An id, a key or a feature, which are recorded beside them, must not have one of these names;
nor must the target be called prediction, beside which it stands."""


class Columns(BaseModel):
    """The columns of a row that are not features, by their names in the project's data."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    time: str
    id: str
    key: str | None = None
    target: str
