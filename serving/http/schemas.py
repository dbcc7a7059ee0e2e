"""The shapes of requests and answers, for /docs and client generators. Requests are not parsed by these models:
`trimtab.requests` checks rows column by column, which is fast enough for ten thousand of them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

Value = float | int | bool | str | None


class PredictBody(BaseModel):
    """Rows to predict."""

    model_config = ConfigDict(extra="forbid")

    rows: list[dict[str, Value]] = Field(
        min_length=1,
        description="objects with the live release's features (see its schema.json) and, optionally, the data's time, "
        "id and key columns, which are recorded",
    )


class PredictColumns(BaseModel):
    """The same by column, which is faster for many rows."""

    model_config = ConfigDict(extra="forbid")

    columns: dict[str, list[Value]] = Field(min_length=1, description="lists of one length")


class Prediction(BaseModel):
    """One row's answer; its fields depend on the task. During a rollout, a row that the challenger answered names its
    release when the champion answered others."""

    id: str = Field(description="send it back with the label")
    probability: float | None = Field(None, description="binary: probability of the positive class")
    label: bool | int | str | None = Field(None, description="multiclass: the most likely label")
    probabilities: dict[str, float] | None = Field(None, description="multiclass: probability of every label")
    value: float | None = Field(None, description="regression")
    release: str | None = Field(None, description="digest of the release that answered this row, if different")
    version: int | None = Field(None, description="its version in the model registry")


class PredictResponse(BaseModel):
    """Predictions in the order of the rows."""

    release: str = Field(description="digest of the release that answered, except rows that name another")
    version: int = Field(description="its version in the model registry")
    predictions: list[Prediction]


class LabelRow(BaseModel):
    """The actual outcome of a prediction."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(pattern="^[0-9a-f]{32}$", description="the id that /predict returned")
    label: bool | int | float | str
    time: datetime | None = Field(None, description="when it became known, ISO 8601")


class LabelsBody(BaseModel):
    """Labels. They may arrive late or twice: the last one counts."""

    labels: list[LabelRow] = Field(min_length=1)


class LabelsResponse(BaseModel):
    """How many labels were new, repeated or changed, among those that this server remembers."""

    accepted: int
    duplicates: int
    conflicts: int


class Problem(BaseModel):
    """What is wrong, and in which row and field."""

    problem: str
    row: int | None = None
    field: str | None = None
    got: Any = None


class ErrorBody(BaseModel):
    """The shape of every error."""

    error: Problem


class LoadResponse(BaseModel):
    """A release is in memory."""

    release: str
    version: int
    load_ms: float


class ProbeResponse(BaseModel):
    """Whether a release's own sample rows gave the recorded predictions."""

    ok: bool
    worst_difference: float | None
    latency_ms: float
    reason: str
