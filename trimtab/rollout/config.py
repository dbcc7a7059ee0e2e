"""What a rollout is judged by: the section `rollout` of `params.yaml`. A rollout keeps the rules that it began with, so
they are part of its record. How evidence is weighed is `trimtab.rollout.sequential_test`'s business, what follows is
`trimtab.rollout.state_machine`'s."""

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
# What pairs of predictions are recorded with; a slice column of such a name could not be told from it.
RESERVED_COLUMNS = frozenset(
    {
        *("prediction_id", "time", "received_at", "rollout", "champion", "challenger", "by_challenger", "error"),
        *("champion_prediction", "challenger_prediction", "champion_probabilities", "challenger_probabilities"),
        *("champion_us", "challenger_us", "rows_in_call", "label", "arrived"),
    }
)


class Guardrails(BaseModel):
    """What takes a challenger back at once, without any label."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_errors: int = Field(2, ge=0, description="answers that the challenger may owe by raising an error")
    max_missing: int = Field(2, ge=0, description="answers that may be no number")
    latency_ratio: float = Field(3.0, gt=1, description="times as slow as the champion, and slower than latency_ms")
    latency_ms: float = Field(20.0, gt=0, description="a call to the model that takes less is quick enough")
    distance: float = Field(0.2, gt=0, le=1, description="between the outputs that users get and those in the shadow")
    min_answers: int = Field(100, ge=20, description="answers before latency, constancy and distance are judged")


class RolloutConfig(BaseModel):
    """How a challenger becomes champion. Losses lie in 0 to 1 (`trimtab.rollout.losses`), and so does the margin."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    steps: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.05, 0.25, 0.5), description="shares of the keys that the challenger answers, one after another"
    )
    alpha: float = Field(0.05, gt=0, lt=0.5, description="chance of a wrong verdict, at however many looks")
    margin: float = Field(
        0.002, gt=0, lt=1, description="how much larger a mean loss (0 to 1) still counts as not worse"
    )
    loss: Loss | None = Field(None, description="loss of a row; default: brier, squared for a regression")
    min_labels: int = Field(500, ge=1, description="labels before the first canary step, and before any verdict")
    block: Duration | None = Field(
        None, description="data time that counts as one observation, by the gate's metric and margins, like 1d"
    )
    min_answers: int = Field(500, ge=1, description="pairs in the shadow, and answers of each canary step")
    horizon: Duration = Field(timedelta(days=28), description="data time after which on_inconclusive decides")
    on_inconclusive: Literal["keep", "promote"] = Field(
        "keep", description="at the horizon: keep the champion, or promote"
    )
    slices: dict[str, Annotated[float, Field(gt=0, lt=1)]] = Field(
        {}, description="column: margin of the loss in each value"
    )
    min_slice_labels: int = Field(300, ge=30, description="labels after which a value of a slice is judged")
    probation: Duration = Field(
        timedelta(days=28), description="data time that late labels can still revert a promotion"
    )
    guardrails: Guardrails = Guardrails()

    @field_validator("steps")
    @classmethod
    def _rising(cls, steps: tuple[float, ...]) -> tuple[float, ...]:
        if list(steps) != sorted(set(steps)):
            raise ValueError(f"steps have to rise: {', '.join(map(str, steps))} do not")
        return steps

    @field_validator("slices")
    @classmethod
    def _own_names(cls, slices: dict[str, float]) -> dict[str, float]:
        if taken := sorted(RESERVED_COLUMNS & slices.keys()):
            raise ValueError(f"telemetry needs the name {taken[0]} for itself: rename the column")
        return slices

    def loss_of(self, task: str) -> Loss:
        """The loss that pairs are compared by."""
        return self.loss or LOSSES[task][0]
