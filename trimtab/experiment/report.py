"""The plan and the report of an A/B experiment. `trimtab.experiment.analysis` computes a report,
`trimtab.experiment.markdown` formats it.

A report has two kinds of comparison. The effect is a mean loss difference over pairs: both releases scored the same
rows, and its interval holds however often it is looked at. The gate's metric is computed per arm on the answers that
users received; its intervals hold for one look at a time fixed in advance.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from trimtab.config.fields import Duration, format_duration

STRATEGY = "experiment"
POWER = 0.8
BROKEN_BELOW = 0.001  # a small threshold, because the p-value is looked at often

EffectFinding = Literal[
    "B is better", "B is worse", "no difference that matters", "not told apart", "too few labels", "too few blocks"
]
ExperimentState = Literal["running", "ended"]


class ExperimentPlan(BaseModel):
    """The request: *b* answers *share* of the keys and *a* the others, for *duration* of data time."""

    model_config = ConfigDict(frozen=True, extra="forbid", title="experiment")

    a: str
    b: str
    share: float = Field(0.5, gt=0, lt=1)
    duration: Annotated[Duration, Field(gt=timedelta(0))] = timedelta(days=7)
    name: str | None = Field(
        None, pattern=r"^[a-z0-9][a-z0-9.-]{0,59}$", description="empty: derived from the other fields"
    )

    @field_validator("b")
    @classmethod
    def _two(cls, b: str, info: Any) -> str:
        if b == info.data.get("a"):
            raise ValueError(f"both are {b[:12]}: an experiment needs two releases")
        return b

    @property
    def id(self) -> str:
        """The id in the ledger, the same for the same plan: a repeated request does not start another experiment."""
        return f"{STRATEGY}-{self.title}"

    @property
    def title(self) -> str:
        """The name for people."""
        return self.name or f"{self.a[:8]}-{self.b[:8]}-{self.share:g}-{format_duration(self.duration)}"


class Estimate(BaseModel):
    """A value and its interval; null where it cannot be computed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float | None
    low: float | None
    high: float | None


class Arm(BaseModel):
    """One arm: the answers that users received, their labels so far, and the gate's metric on them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    release: str
    answers: int
    labels: int
    metric: Estimate


class SampleRatioCheck(BaseModel):
    """Whether the arms have the planned share of keys (sample ratio mismatch): Pearson's chi-square test, one degree of
    freedom.

    Keys are assigned to arms, so keys are counted, not answers. *holds* is null while there are too few. *replaced*
    counts the answers that belong to B and were given by A because B had none.
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
    """B's mean loss minus A's on the same rows, overall or where *column* is *value*; negative where B is better."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: str | None
    value: str | None
    labels: int
    difference: float | None
    low: float
    high: float
    finding: EffectFinding


class BlockEffect(BaseModel):
    """The overall effect with a *block* of data time as one observation, because labels of one day are correlated."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    block: Duration
    blocks: int
    difference: float | None
    low: float | None
    high: float | None
    finding: EffectFinding


class Power(BaseModel):
    """The power of the experiment so far; null before there are labels.

    *detectable* is the smallest difference that these labels show with probability `POWER`. *needed* is the number of
    labels that show a difference as large as the margin; *still_needed* is how many of them are missing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sd: float | None = None
    detectable: float | None = None
    needed: int | None = None
    still_needed: int | None = None


class Report(BaseModel):
    """The state of an experiment and all its results. *gain* is B's metric minus A's, signed so that positive is
    better.
    """

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
    by_block: BlockEffect | None = Field(None, description="null where the policy has no block")
    power: Power
    broken: tuple[str, ...]
    conclusion: str


def measures(report: Report) -> dict[str, float]:
    """Return the report's numbers by name for an experiment tracker; unknown numbers are left out."""
    named = {
        "effect": report.effect.difference, "effect_low": report.effect.low, "effect_high": report.effect.high,
        "labels": report.effect.labels, "pairs": report.pairs, "answers_a": report.a.answers,
        "answers_b": report.b.answers, "sample_ratio_p_value": report.sample_ratio.p_value,
        "detectable": report.power.detectable, "labels_still_needed": report.power.still_needed,
        f"{report.metric}_a": report.a.metric.value,
        f"{report.metric}_b": report.b.metric.value, f"{report.metric}_gain": report.gain.value,
    }  # fmt: skip
    return {name: float(value) for name, value in named.items() if value is not None}
