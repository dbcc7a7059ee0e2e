"""What a rollout's evidence says: promote, roll back or keep collecting. Differences of losses in, a verdict with its
reason out. How a loss is measured is `trimtab.rollout.losses`' business, how evidence is weighed
`trimtab.rollout.evalues`', and what follows the rollout's.

A verdict falls with the first label at which the evidence suffices and then stays: it is a function of the labels up to
there, however often one looked and whatever came later."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from trimtab.model.scoring import Floats
from trimtab.rollout import evalues
from trimtab.rollout.config import RolloutConfig

Mask = np.ndarray[Any, np.dtype[np.bool_]]
VerdictOutcome = Literal["promote", "roll back", "keep collecting"]
TestFinding = Literal["not worse", "worse", "undecided", "too few labels to tell"]
NEVER = 2**62

# A release is taken back for nothing at most alpha of the time, the probation included: the rollout uses four fifths of
# alpha, the probation the rest. Promotions leave that fifth in reserve, for streams whose mean is only nearly steady.
ROLLOUT_SHARE, PROBATION_SHARE = 0.8, 0.2
# A promotion waits for the slices that get at least one label in so many; rarer ones might never have enough.
RARE = 20


class TestResult(BaseModel):
    """What the labels say overall, where *column* is null, or where *column* is *value*.

    *difference* is the mean loss of the challenger less the champion's, *sd* its standard deviation over the rows;
    *low* to *high* holds the mean at any time at 1 - alpha. *not_worse* and *worse* are log10 of the largest e-values
    so far, beside what they have to reach.
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
        """In words."""
        return "overall" if self.column is None else f"where {self.column} is {self.value}"


class Verdict(BaseModel):
    """What to do, the *reason* in words, the *labels* that it rests on, and the evidence."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    outcome: VerdictOutcome
    reason: str
    labels: int
    alpha: float
    overall: TestResult
    slices: tuple[TestResult, ...] = ()


def judge(
    differences: Floats, config: RolloutConfig, *, slices: Mapping[tuple[str, str], Mask] | None = None
) -> Verdict:
    """Weigh *differences*, shape (n,), in -1 to 1, in the order in which their labels came; nan is left out.

    *slices* holds, for (column, value), which of the rows belong to it; its columns are those of ``config.slices``.

    Promote: overall shown not worse by ``config.margin``, and each slice not worse by its own, at alpha each. That
    needs no correction: one that harms one of them has to get past that one's test (Berger 1982, intersection-union).
    Only a slice with fewer than ``min_slice_labels`` labels and less than one in `RARE` of all is
    not waited for. Roll back: overall shown worse, or a slice with ``min_slice_labels`` worse by more than its margin,
    at alpha for all of these together. What is shown first counts; both at once is a rollback.
    """
    parts = accumulate(differences, config, slices)
    return _verdict(parts, config, *decide(parts, config))


def judge_after_promotion(
    differences: Floats, config: RolloutConfig, *, slices: Mapping[tuple[str, str], Mask] | None = None
) -> Verdict:
    """The probation: weigh labels that arrived after a promotion, which they can only revert (roll back) or not.

    The evidence begins anew with *differences*, and no number of labels is waited for: users get the challenger's
    answers.
    """
    parts = accumulate(differences, config, slices, share=PROBATION_SHARE)
    at = min(max(part.worse_at, part.judged_at) for part in parts)
    if at == NEVER:
        return _verdict(parts, config, "keep collecting", parts[0].size, probation=True)
    return _verdict(parts, config, "roll back", at, probation=True)


@dataclass(frozen=True)
class EvidencePath:
    """All rows (*key* is None) or those of a slice, with the paths of both ln e-values.

    *at* is the number of all labels at each of its own; so are *judged_at*, from when on it counts, and
    *not_worse_at* and *worse_at*, when that was shown; NEVER where it has not happened.
    """

    key: tuple[str, str] | None
    differences: Floats
    at: np.ndarray[Any, np.dtype[np.int64]]
    margin: float
    alpha_worse: float
    not_worse: Floats
    worse: Floats
    judged_at: int
    not_worse_at: int
    worse_at: int

    @property
    def size(self) -> int:
        """Labels in it."""
        return len(self.differences)

    def count(self, labels: int) -> int:
        """How many of the first *labels* labels are in it."""
        return int(np.searchsorted(self.at, labels, side="right"))

    def open(self, config: RolloutConfig, labels: np.ndarray[Any, np.dtype[np.int64]]) -> Mask:
        """Whether a promotion still waits for this part after so many *labels* of all, any shape."""
        counts = np.searchsorted(self.at, labels, side="right")
        asked = (self.key is None) | (counts >= config.min_slice_labels) | (counts * RARE >= labels)
        return asked & (labels < self.not_worse_at)


def accumulate(
    differences: Floats,
    config: RolloutConfig,
    slices: Mapping[tuple[str, str], Mask] | None = None,
    *,
    share: float = ROLLOUT_SHARE,
) -> list[EvidencePath]:
    """The evidence of *differences* overall, and of each slice: in this order.

    Being worse is tested in all of them together at *share* of alpha: half of that overall, where ``config`` names
    slices and *slices* is given, and 1 / (2 j (j + 1)) of it in the j-th slice to get a label, which sums to the other
    half however many there will be. The order is known before the labels are, so a value that turns up late changes
    nothing for the others.
    """
    differences = np.asarray(differences, dtype=np.float64)
    known = np.isfinite(differences)
    differences = differences[known]
    if (np.abs(differences) > 1).any():
        raise ValueError("differences of losses lie between -1 and 1")
    alpha = config.alpha * share
    shared = slices is not None and bool(config.slices)
    every = np.arange(1, len(differences) + 1)
    parts = [_part(None, differences, every, config, alpha_worse=alpha / 2 if shared else alpha)]
    places = {key: every[np.asarray(mask, dtype=np.bool_)[known]] for key, mask in (slices or {}).items()}
    ordered = sorted((key for key in places if len(places[key])), key=lambda key: (places[key][0], key))
    for j, key in enumerate(ordered, 1):
        at = places[key]
        parts.append(_part(key, differences[at - 1], at, config, alpha_worse=alpha / (2 * j * (j + 1))))
    return parts


def _part(
    key: tuple[str, str] | None,
    differences: Floats,
    at: np.ndarray[Any, np.dtype[np.int64]],
    config: RolloutConfig,
    *,
    alpha_worse: float,
) -> EvidencePath:
    margin, tolerated, least = (config.margin, 0.0, 0) if key is None else _slice_rules(config, key[0])
    not_worse = evalues.against_worse(differences, margin)
    worse = evalues.against_not_worse(differences, tolerated, unit=margin)

    def moment(count: int) -> int:
        return int(at[count - 1]) if 0 < count <= len(at) else NEVER

    shown = moment(int(evalues.first_crossing(not_worse, config.alpha * ROLLOUT_SHARE)))
    convicted = moment(int(evalues.first_crossing(worse, alpha_worse)))
    judged = moment(least) if least else 0
    return EvidencePath(key, differences, at, margin, alpha_worse, not_worse, worse, judged, shown, convicted)


def _slice_rules(config: RolloutConfig, column: str) -> tuple[float, float, int]:
    """Margin, what a slice may lose before it is harmed, and the labels that it takes to judge it."""
    if column not in config.slices:
        raise ValueError(f"{column} has no margin: rollout.slices names {', '.join(config.slices) or 'none'}")
    return config.slices[column], config.slices[column], config.min_slice_labels


def decide(parts: list[EvidencePath], config: RolloutConfig) -> tuple[VerdictOutcome, int]:
    """What *parts* lead to, and the number of labels with which that was clear."""
    overall, *slices = parts
    from_here = np.arange(max(overall.not_worse_at, config.min_labels), overall.size + 1)
    for part in slices:
        from_here = from_here[~part.open(config, from_here)]
    promoted = int(from_here[0]) if len(from_here) else NEVER
    rolled_back = max(min(max(part.worse_at, part.judged_at) for part in parts), config.min_labels)
    if min(promoted, rolled_back) > overall.size:
        return "keep collecting", overall.size
    return ("promote", promoted) if promoted < rolled_back else ("roll back", rolled_back)


def _verdict(
    parts: list[EvidencePath], config: RolloutConfig, outcome: VerdictOutcome, labels: int, *, probation: bool = False
) -> Verdict:
    overall, *slices = (_evidence(part, config, labels) for part in parts)
    reason = _reason(overall, slices, config, outcome, probation=probation)
    return Verdict(
        outcome=outcome, reason=reason, labels=labels, alpha=config.alpha, overall=overall, slices=tuple(slices)
    )


def _evidence(part: EvidencePath, config: RolloutConfig, labels: int) -> TestResult:
    """Of the first *labels* labels, some of which are in *part*."""
    count = part.count(labels)
    seen = part.differences[:count]
    low, high = evalues.interval(seen, alpha=config.alpha)
    finding: TestFinding = "undecided"
    if max(part.worse_at, part.judged_at) <= labels:
        finding = "worse"
    elif part.not_worse_at <= labels:
        finding = "not worse"
    elif part.judged_at > labels and not part.open(config, np.array(labels)):
        finding = "too few labels to tell"
    column, value = part.key or (None, None)
    return TestResult(
        column=column, value=value, labels=count, difference=float(seen.mean()) if count else None,
        sd=float(seen.std()) if count else None, low=low, high=high, margin=part.margin,
        not_worse=_largest(part.not_worse[:count]), not_worse_needs=-math.log10(config.alpha * ROLLOUT_SHARE),
        worse=_largest(part.worse[:count]), worse_needs=-math.log10(part.alpha_worse), finding=finding,
    )  # fmt: skip


def _largest(path: Floats) -> float:
    """log10 of the largest e-value, which began at 1."""
    return max(float(path.max()), 0.0) / math.log(10) if len(path) else 0.0


def _reason(
    overall: TestResult, slices: list[TestResult], config: RolloutConfig, outcome: VerdictOutcome, *, probation: bool
) -> str:
    seen = _in_words(overall)
    chance = (
        f"at most {config.alpha:.0%} of the time" if config.alpha >= 0.01 else f"in at most {config.alpha:g} of cases"
    )
    few = [e.where for e in slices if e.finding == "too few labels to tell"]
    untold = f"; too few labels to tell {_listed(few)}" if few else ""
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
            f"one that is worse by that would get this far {chance}{untold}"
        )
    if probation:
        return f"not shown worse since it was promoted: {seen}"
    if overall.labels < config.min_labels:
        return f"{overall.labels:,} of the {config.min_labels:,} labels that are asked for: {seen}"
    open_parts = [e.where for e in (overall, *slices) if e.finding == "undecided"]
    return f"neither shown worse nor shown not worse {_listed(open_parts)}: {seen}{untold}"


def _in_words(evidence: TestResult) -> str:
    if evidence.difference is None:
        return "no label so far"
    return (
        f"over {evidence.labels:,} labels its mean loss differs by {evidence.difference:+.4f} "
        f"({evidence.low:+.4f} to {evidence.high:+.4f})"
    )


def _listed(places: list[str], *, most: int = 3) -> str:
    rest = f" and {len(places) - most} more" if len(places) > most else ""
    return ", ".join(places[:most]) + rest
