"""The section `rollout` of `params.yaml`. A rollout keeps the configuration of its first day: it is stored as a
`RolloutPolicy` with the rollout.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from trimtab.config.fields import Duration

Loss = Literal["brier", "log", "squared", "absolute"]
LOSSES: dict[str, tuple[Loss, ...]] = {
    "binary": ("brier", "log"),
    "multiclass": ("brier", "log"),
    "regression": ("squared", "absolute"),
}
# The columns of recorded pairs. A slice column must not have one of these names.
RESERVED_COLUMNS = frozenset(
    {
        *("prediction_id", "time", "received_at", "rollout", "champion", "challenger", "by_challenger", "error"),
        *("champion_prediction", "challenger_prediction", "champion_probabilities", "challenger_probabilities"),
        *("champion_us", "challenger_us", "rows_in_call", "label", "arrived"),
    }
)


class Guardrails(BaseModel):
    """Limits that need no label. A challenger that breaks one is rolled back at once."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_errors: int = Field(2, ge=0, description="requests on which the challenger may raise an error")
    max_missing: int = Field(2, ge=0, description="answers of the challenger that may be missing or not finite")
    latency_ratio: float = Field(
        3.0, gt=1, description="allowed ratio to the champion's latency, checked above latency_ms"
    )
    latency_ms: float = Field(20.0, gt=0, description="model calls faster than this always pass")
    distance: float = Field(
        0.2,
        gt=0,
        le=1,
        description="allowed Kolmogorov-Smirnov distance between the outputs that users get and the shadow's",
    )
    min_answers: int = Field(100, ge=20, description="answers before latency, constant output and distance are checked")


class RolloutConfig(BaseModel):
    """How a challenger becomes champion. Losses and the margin lie between 0 and 1 (`trimtab.rollout.losses`)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    steps: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.05, 0.25, 0.5), description="the challenger's shares of the keys, in rising order"
    )
    alpha: float = Field(
        0.05, gt=0, lt=0.5, description="probability of a wrong verdict, however often the data are looked at"
    )
    margin: float = Field(
        0.002, gt=0, lt=1, description="how much larger the mean loss (0 to 1) may be and still count as not worse"
    )
    loss: Loss | None = Field(None, description="loss per row; default: brier, for a regression squared")
    min_labels: int = Field(500, ge=1, description="labels before the first canary step and before any verdict")
    block: Duration | None = Field(
        None, description="data time that counts as one observation, like 1d; compared by the gate's metric and margins"
    )
    min_answers: int = Field(500, ge=1, description="pairs in the shadow phase, and answers in each canary step")
    horizon: Duration = Field(timedelta(days=28), description="data time after which on_inconclusive decides")
    on_inconclusive: Literal["keep", "promote"] = Field(
        "keep", description="at the horizon: keep the champion, or promote the challenger"
    )
    slices: dict[str, Annotated[float, Field(gt=0, lt=1)]] = Field(
        {}, description="column: margin of the mean loss in each of its values"
    )
    min_slice_labels: int = Field(300, ge=30, description="labels before a value of a slice column is judged")
    probation: Duration = Field(
        timedelta(days=28), description="data time in which late labels can still revert a promotion"
    )
    guardrails: Guardrails = Guardrails()

    @field_validator("steps")
    @classmethod
    def _rising(cls, steps: tuple[float, ...]) -> tuple[float, ...]:
        if list(steps) != sorted(set(steps)):
            raise ValueError(f"steps must rise: {', '.join(map(str, steps))} do not")
        return steps

    @field_validator("slices")
    @classmethod
    def _own_names(cls, slices: dict[str, float]) -> dict[str, float]:
        if taken := sorted(RESERVED_COLUMNS & slices.keys()):
            raise ValueError(f"{taken[0]} is a column of the recorded pairs: rename the slice column")
        return slices

    def loss_of(self, task: str) -> Loss:
        """Return the loss for *task*: the configured one, otherwise the task's default.

        >>> RolloutConfig().loss_of("regression")
        'squared'
        """
        return self.loss or LOSSES[task][0]
