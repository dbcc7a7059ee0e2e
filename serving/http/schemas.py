"""The shapes of requests and answers, for /docs and client generators. Requests are not parsed through these: rows are
checked column by column (`trimtab.requests.parser`), which is what makes ten thousand of them cheap."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

Value = float | int | bool | str | None


class PredictBody(BaseModel):
    """Rows to answer."""

    model_config = ConfigDict(extra="forbid")

    rows: list[dict[str, Value]] = Field(
        min_length=1,
        description="objects with the live release's features (its schema.json has them), and, if wanted, the data "
        "time, id and key columns, which are recorded",
    )


class PredictColumns(BaseModel):
    """The same by column, which takes less time for many rows."""

    model_config = ConfigDict(extra="forbid")

    columns: dict[str, list[Value]] = Field(min_length=1, description="lists of one length")


class Prediction(BaseModel):
    """One row's answer; which fields there are depends on the task. While a release is tried on a share of the users, a
    row that another release answered than the rest names it."""

    id: str = Field(description="send it back with the label")
    probability: float | None = Field(None, description="binary: probability of the positive class")
    label: bool | int | str | None = Field(None, description="multiclass: the likeliest label")
    probabilities: dict[str, float] | None = Field(None, description="multiclass: probability of every label")
    value: float | None = Field(None, description="regression")
    release: str | None = Field(None, description="digest of the release that answered this row, if another")
    version: int | None = Field(None, description="its version in the model registry")


class PredictResponse(BaseModel):
    """Predictions in the order of the rows."""

    release: str = Field(description="digest of the release that answered, but for rows that name another")
    version: int = Field(description="its version in the model registry")
    predictions: list[Prediction]


class LabelRow(BaseModel):
    """What a prediction turned out to be."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(pattern="^[0-9a-f]{32}$", description="as /predict answered it")
    label: bool | int | float | str
    time: datetime | None = Field(None, description="when it became known, ISO 8601")


class LabelsBody(BaseModel):
    """Labels, late or twice without harm: the last to arrive counts."""

    labels: list[LabelRow] = Field(min_length=1)


class LabelsResponse(BaseModel):
    """What became of them, as far as the server remembers; `stores.telemetry.count_labels` knows all."""

    accepted: int
    duplicates: int
    conflicts: int


class Problem(BaseModel):
    """What is wrong, and where."""

    problem: str
    row: int | None = None
    field: str | None = None
    got: Any = None


class ErrorBody(BaseModel):
    """Every error has this shape."""

    error: Problem


class LoadResponse(BaseModel):
    """A release is in memory."""

    release: str
    version: int
    load_ms: float


class ProbeResponse(BaseModel):
    """Whether a release's own sample rows gave the predictions that were recorded with it."""

    ok: bool
    worst_difference: float | None
    latency_ms: float
    reason: str
