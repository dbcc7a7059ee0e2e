"""What an A/B experiment is: what was asked for, and the words of its report. What the evidence says is
`trimtab.experiment.analysis`' business, how a report reads `trimtab.experiment.markdown`'s.

Two different things are compared. The effect is a mean difference of losses over pairs: both releases scored the same
rows, and its interval holds however often one looks. The gate's metric is each arm's own, on what it answered: what
users got, with intervals that hold for one look at a time fixed beforehand."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from trimtab.config.fields import Duration, written

STRATEGY = "experiment"
POWER = 0.8
BROKEN_BELOW = 0.001  # a p-value that is looked at often, so small that it is reached by chance hardly ever

EffectFinding = Literal[
    "B is better", "B is worse", "no difference that matters", "not told apart", "too few labels", "too few blocks"
]
ExperimentState = Literal["running", "ended"]


class ExperimentPlan(BaseModel):
    """What was asked for: *share* of the keys are answered by *b*, the others by *a*, for *duration* of data time."""

    model_config = ConfigDict(frozen=True, extra="forbid", title="experiment")

    a: str
    b: str
    share: float = Field(0.5, gt=0, lt=1)
    duration: Annotated[Duration, Field(gt=timedelta(0))] = timedelta(days=7)
    name: str | None = Field(None, pattern=r"^[a-z0-9][a-z0-9.-]{0,59}$", description="empty: made from the rest")

    @field_validator("b")
    @classmethod
    def _two(cls, b: str, info: Any) -> str:
        if b == info.data.get("a"):
            raise ValueError(f"both are {b[:12]}: an experiment needs two releases")
        return b

    @property
    def id(self) -> str:
        """What the ledger calls it: the same for the same experiment, so that asking again does not start another."""
        return f"{STRATEGY}-{self.title}"

    @property
    def title(self) -> str:
        """What people call it."""
        return self.name or f"{self.a[:8]}-{self.b[:8]}-{self.share:g}-{written(self.duration)}"


class Estimate(BaseModel):
    """A number and the interval that holds it; null where it cannot be computed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float | None
    low: float | None
    high: float | None


class Arm(BaseModel):
    """What users got from one of the two: answers, their labels so far, the gate's metric on these."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    release: str
    answers: int
    labels: int
    metric: Estimate


class SampleRatioCheck(BaseModel):
    """Whether the arms have as many keys as they ought to: Pearson's chi-square with one degree of freedom.

    Keys are dealt to the arms, not answers, so keys are counted: a key with many answers is one draw. *holds* is null
    while there are too few to tell. *replaced* answers were B's to give, and given by A because B had none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    unit: Literal["keys", "answers"]
    a: int
    b: int
    chosen: float
    chi_square: float | None
    p_value: float | None
    holds: bool | None
    replaced: int


class Effect(BaseModel):
    """B's mean loss less A's on the same rows, overall or where *column* is *value*; negative where B is better."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: str | None
    value: str | None
    labels: int
    difference: float | None
    low: float
    high: float
    finding: EffectFinding


class BlockEffect(BaseModel):
    """The overall effect with a *block* of data time as one observation, as labels of one day share its weather: what
    does not hold here may be the luck of a few days."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    block: Duration
    blocks: int
    difference: float | None
    low: float | None
    high: float | None
    finding: EffectFinding


class Power(BaseModel):
    """*detectable*: the smallest difference that these labels show with probability POWER. *needed*: the labels that
    it takes to show one as large as the margin; *still_needed* of them have not come. Null before there are labels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sd: float | None = None
    detectable: float | None = None
    needed: int | None = None
    still_needed: int | None = None


class Report(BaseModel):
    """Everything there is to say of an experiment now. *gain* is B's metric less A's, turned so that positive is
    better."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    plan: ExperimentPlan
    state: ExperimentState
    reason: str = Field("", description="why it ended")
    elapsed: Duration
    loss: str
    alpha: float
    margin: float
    metric: str
    pairs: int
    a: Arm
    b: Arm
    gain: Estimate
    sample_ratio: SampleRatioCheck
    effect: Effect
    slices: tuple[Effect, ...]
    by_block: BlockEffect | None = Field(None, description="null where the rules name no block")
    power: Power
    broken: tuple[str, ...]
    conclusion: str


def measures(report: Report) -> dict[str, float]:
    """The report's numbers by name, as a tracker keeps them; those that are not known are left out."""
    named = {
        "effect": report.effect.difference, "effect_low": report.effect.low, "effect_high": report.effect.high,
        "labels": report.effect.labels, "pairs": report.pairs, "answers_a": report.a.answers,
        "answers_b": report.b.answers, "sample_ratio_p_value": report.sample_ratio.p_value,
        "detectable": report.power.detectable, "labels_still_needed": report.power.still_needed,
        f"{report.metric}_a": report.a.metric.value,
        f"{report.metric}_b": report.b.metric.value, f"{report.metric}_gain": report.gain.value,
    }  # fmt: skip
    return {name: float(value) for name, value in named.items() if value is not None}
