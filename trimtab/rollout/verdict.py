"""The verdict on a rollout: the outcome, the numbers behind it, and the reason in words.

`trimtab.rollout.sequential_test` computes it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from trimtab.rollout.config import RolloutConfig

VerdictOutcome = Literal["promote", "roll back", "keep collecting"]
TestFinding = Literal["not worse", "worse", "undecided", "too few labels to tell"]


class SequentialTestResult(BaseModel):
    """What the labels show overall (*column* is null) or where *column* is *value*.

    *difference* is the mean loss of the challenger minus the champion's and *sd* its standard deviation over the rows.
    [*low*, *high*] contains the mean at all times with probability 1 - alpha. *not_worse* and *worse* are log10 of the
    largest e-values so far; *not_worse_needs* and *worse_needs* are the thresholds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    column: str | None
    value: str | None
    labels: int
    difference: float | None
    sd: float | None = None
    low: float
    high: float
    margin: float
    not_worse: float
    not_worse_needs: float
    worse: float
    worse_needs: float
    finding: TestFinding

    @property
    def where(self) -> str:
        """The place in words."""
        return "overall" if self.column is None else f"where {self.column} is {self.value}"


class Verdict(BaseModel):
    """The outcome, the *reason* in words, the number of *labels* it rests on, and the test results."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    outcome: VerdictOutcome
    reason: str
    labels: int
    alpha: float
    overall: SequentialTestResult
    slices: tuple[SequentialTestResult, ...] = ()


def explain(
    overall: SequentialTestResult,
    slices: list[SequentialTestResult],
    config: RolloutConfig,
    outcome: VerdictOutcome,
    *,
    probation: bool,
) -> str:
    """Return the reason for *outcome* in words."""
    seen = _in_words(overall)
    chance = (
        f"at most {config.alpha:.0%} of the time" if config.alpha >= 0.01 else f"in at most {config.alpha:g} of cases"
    )
    few = [e.where for e in slices if e.finding == "too few labels to tell"]
    undecided = f"; too few labels to tell {_listed(few)}" if few else ""
    if outcome == "roll back":
        harmed = [e for e in slices if e.finding == "worse"]
        if overall.finding == "worse":
            return f"worse: {seen}; one that is no worse would look like this {chance}"
        places = _listed([e.where for e in harmed])
        return (
            f"worse {places} by more than the margin of {harmed[0].margin:g}: {_in_words(harmed[0])}; "
            f"overall {seen}; one that harms no slice would look like this {chance}"
        )
    if outcome == "promote":
        judged = sum(e.finding == "not worse" for e in slices)
        others = f", nor by more than their margins in {judged} slices" if judged else ""
        return (
            f"not worse by more than {overall.margin:g}{others}: {seen}; "
            f"one that is worse by that would get this far {chance}{undecided}"
        )
    if probation:
        return f"not shown worse since it was promoted: {seen}"
    if overall.labels < config.min_labels:
        return f"{overall.labels:,} of the {config.min_labels:,} labels that are asked for: {seen}"
    open_parts = [e.where for e in (overall, *slices) if e.finding == "undecided"]
    return f"neither shown worse nor shown not worse {_listed(open_parts)}: {seen}{undecided}"


def _in_words(evidence: SequentialTestResult) -> str:
    if evidence.difference is None:
        return "no label so far"
    return (
        f"over {evidence.labels:,} labels its mean loss differs by {evidence.difference:+.4f} "
        f"({evidence.low:+.4f} to {evidence.high:+.4f})"
    )


def _listed(places: list[str], *, most: int = 3) -> str:
    rest = f" and {len(places) - most} more" if len(places) > most else ""
    return ", ".join(places[:most]) + rest
