"""The sequential test of a rollout: from loss differences to promote, roll back or keep collecting.

The verdict falls with the first label at which the evidence suffices, and then stays: it depends only on the labels up
to that one, not on how often it was computed. `trimtab.rollout.losses` measures losses, `trimtab.rollout.evalues` has
the statistics.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from trimtab.data.arrays import Floats, Ints, Mask
from trimtab.rollout import evalues
from trimtab.rollout.config import RolloutConfig
from trimtab.rollout.verdict import SequentialTestResult, TestFinding, Verdict, VerdictOutcome, explain

NEVER = 2**62

# A release that is not worse is rolled back with probability at most alpha, probation included: the rollout uses four
# fifths of alpha, probation the rest. Promotions use four fifths too, as a reserve for means that change over time.
ROLLOUT_SHARE, PROBATION_SHARE = 0.8, 0.2
# A promotion waits for slices with at least one label in so many. Rarer ones may never have enough.
RARE = 20


def judge(
    differences: Floats, config: RolloutConfig, *, slices: Mapping[tuple[str, str], Mask] | None = None
) -> Verdict:
    """Return the verdict on *differences*, shape (n,), in [-1, 1], in order of arrival. Nan values are left out.

    *slices* maps (column, value) to the mask of its rows, shape (n,); the columns are those of ``config.slices``.

    Promote: shown not worse overall by ``config.margin`` and in each slice by its own margin, each at level alpha. This
    needs no correction for multiplicity (intersection-union test, Berger 1982, Technometrics 24, 295-300). A slice with
    fewer than ``min_slice_labels`` labels and less than one label in `RARE` does not delay a promotion.

    Roll back: shown worse overall, or worse by more than its margin in a slice with at least ``min_slice_labels``
    labels, at level alpha for all of these together. The first of the two outcomes counts; a tie is a rollback.

    Raises ValueError when a difference is outside [-1, 1] or a slice has no margin.
    """
    paths = accumulate(differences, config, slices)
    return _verdict(paths, config, *decide(paths, config))


def judge_after_promotion(
    differences: Floats, config: RolloutConfig, *, slices: Mapping[tuple[str, str], Mask] | None = None
) -> Verdict:
    """Return the verdict on *differences* that arrived after a promotion: roll back or keep collecting.

    The evidence starts anew with these labels, and no minimum number of labels applies, because users already receive
    the new champion's answers. Arguments and errors are those of `judge`.
    """
    paths = accumulate(differences, config, slices, share=PROBATION_SHARE)
    at = min(max(path.worse_at, path.judged_at) for path in paths)
    if at == NEVER:
        return _verdict(paths, config, "keep collecting", paths[0].size, probation=True)
    return _verdict(paths, config, "roll back", at, probation=True)


@dataclass(frozen=True)
class EvidencePath:
    """The e-values over all rows (*key* is None) or over the rows of a slice.

    *not_worse* and *worse* are ln e-values after each label, shape (m,). *at* is the position of each of these labels
    among all labels, from 1. *judged_at* is the position from which the slice counts; *not_worse_at* and *worse_at* are
    the positions at which that was shown. `NEVER` means that it has not happened.
    """

    key: tuple[str, str] | None
    differences: Floats
    at: Ints
    margin: float
    alpha_worse: float
    not_worse: Floats
    worse: Floats
    judged_at: int
    not_worse_at: int
    worse_at: int

    @property
    def size(self) -> int:
        """The number of labels."""
        return len(self.differences)

    def count(self, labels: int) -> int:
        """Return how many of the first *labels* labels of all rows belong here."""
        return int(np.searchsorted(self.at, labels, side="right"))

    def delays_promotion(self, config: RolloutConfig, labels: Ints) -> Mask:
        """Return whether a promotion still waits for this path after *labels* labels of all rows; any shape."""
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
    """Return the evidence overall, followed by that of each slice in the order of its first label.

    The level for "worse" is *share* of alpha for all paths together. With slices, half of it goes to the overall test
    and 1 / (2 j (j + 1)) to the j-th slice to receive a label; these sum to the other half for any number of slices.
    The order is known before the labels are, so a new value does not change the levels of earlier ones.

    Raises ValueError as `judge` does.
    """
    differences = np.asarray(differences, dtype=np.float64)
    known = np.isfinite(differences)
    differences = differences[known]
    if (np.abs(differences) > 1).any():
        raise ValueError("differences of losses lie between -1 and 1")
    alpha = config.alpha * share
    shared = slices is not None and bool(config.slices)
    every = np.arange(1, len(differences) + 1)
    paths = [_path(None, differences, every, config, alpha_worse=alpha / 2 if shared else alpha)]
    places = {key: every[np.asarray(mask, dtype=np.bool_)[known]] for key, mask in (slices or {}).items()}
    ordered = sorted((key for key in places if len(places[key])), key=lambda key: (places[key][0], key))
    for j, key in enumerate(ordered, 1):
        at = places[key]
        paths.append(_path(key, differences[at - 1], at, config, alpha_worse=alpha / (2 * j * (j + 1))))
    return paths


def _path(
    key: tuple[str, str] | None,
    differences: Floats,
    at: Ints,
    config: RolloutConfig,
    *,
    alpha_worse: float,
) -> EvidencePath:
    margin, tolerated, least = (config.margin, 0.0, 0) if key is None else _slice_limits(config, key[0])
    not_worse = evalues.against_worse(differences, margin)
    worse = evalues.against_not_worse(differences, tolerated, unit=margin)

    def moment(count: int) -> int:
        return int(at[count - 1]) if 0 < count <= len(at) else NEVER

    shown_not_worse = moment(int(evalues.first_crossing(not_worse, config.alpha * ROLLOUT_SHARE)))
    shown_worse = moment(int(evalues.first_crossing(worse, alpha_worse)))
    judged = moment(least) if least else 0
    return EvidencePath(
        key, differences, at, margin, alpha_worse, not_worse, worse, judged, shown_not_worse, shown_worse
    )


def _slice_limits(config: RolloutConfig, column: str) -> tuple[float, float, int]:
    """Return the margin, the loss that counts as harm, and the labels needed to judge a slice of *column*."""
    if column not in config.slices:
        raise ValueError(f"{column} has no margin: rollout.slices names {', '.join(config.slices) or 'none'}")
    return config.slices[column], config.slices[column], config.min_slice_labels


def decide(paths: list[EvidencePath], config: RolloutConfig) -> tuple[VerdictOutcome, int]:
    """Return the outcome and the number of labels at which it was reached."""
    overall, *slices = paths
    from_here = np.arange(max(overall.not_worse_at, config.min_labels), overall.size + 1)
    for path in slices:
        from_here = from_here[~path.delays_promotion(config, from_here)]
    promoted = int(from_here[0]) if len(from_here) else NEVER
    rolled_back = max(min(max(path.worse_at, path.judged_at) for path in paths), config.min_labels)
    if min(promoted, rolled_back) > overall.size:
        return "keep collecting", overall.size
    return ("promote", promoted) if promoted < rolled_back else ("roll back", rolled_back)


def _verdict(
    paths: list[EvidencePath], config: RolloutConfig, outcome: VerdictOutcome, labels: int, *, probation: bool = False
) -> Verdict:
    overall, *slices = (_result(path, config, labels) for path in paths)
    reason = explain(overall, slices, config, outcome, probation=probation)
    return Verdict(
        outcome=outcome, reason=reason, labels=labels, alpha=config.alpha, overall=overall, slices=tuple(slices)
    )


def _result(path: EvidencePath, config: RolloutConfig, labels: int) -> SequentialTestResult:
    """Summarize *path* after the first *labels* labels of all rows."""
    count = path.count(labels)
    seen = path.differences[:count]
    low, high = evalues.interval(seen, alpha=config.alpha)
    finding: TestFinding = "undecided"
    if max(path.worse_at, path.judged_at) <= labels:
        finding = "worse"
    elif path.not_worse_at <= labels:
        finding = "not worse"
    elif path.judged_at > labels and not path.delays_promotion(config, np.array(labels)):
        finding = "too few labels to tell"
    column, value = path.key or (None, None)
    return SequentialTestResult(
        column=column, value=value, labels=count, difference=float(seen.mean()) if count else None,
        sd=float(seen.std()) if count else None, low=low, high=high, margin=path.margin,
        not_worse=_largest(path.not_worse[:count]), not_worse_needs=-math.log10(config.alpha * ROLLOUT_SHARE),
        worse=_largest(path.worse[:count]), worse_needs=-math.log10(path.alpha_worse), finding=finding,
    )  # fmt: skip


def _largest(path: Floats) -> float:
    """Return log10 of the largest e-value so far, which starts at 1."""
    return max(float(path.max()), 0.0) / math.log(10) if len(path) else 0.0
