"""The verdict where a block of data time is one observation (`rollout.block`): the gate's own metric, day by day, of
the release on trial against the other one on the same rows. Loss differences of single labels
(`trimtab.rollout.sequential_test`) then only raise suspicion, which keeps users away from the release until the days
have decided."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from trimtab.evaluation import metrics
from trimtab.model.scoring import Scores
from trimtab.rollout.block_means import MIN_BLOCKS, BlockMean, Ints, block_statistic
from trimtab.rollout.sequential_test import PROBATION_SHARE, RARE, ROLLOUT_SHARE, VerdictOutcome
from trimtab.rollout.state_machine import RolloutPolicy

Mask = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class BlockResult:
    """What the blocks say: the outcome, its reason, and the numbers; *suspected* when only a slice, which looks worse
    but is not shown to be, keeps the release from being promoted."""

    outcome: VerdictOutcome
    reason: str
    evidence: dict[str, Any]
    suspected: bool = False


def judge_blocks(
    truth: metrics.Labels,
    new: Scores,
    old: Scores,
    times_us: Ints,
    policy: RolloutPolicy,
    *,
    slices: Mapping[tuple[str, str], Mask],
    suspects: Collection[tuple[str, str]] = (),
    in_probation: bool,
) -> BlockResult:
    """Hold *new* against *old* on the same rows, all of shape (n,), in blocks of ``policy.block``.

    Promote: shown not worse by ``policy.metric_margin``, and no slice looks worse: not in the mean over its blocks, by
    more than its margin, and not by the losses of its labels, which makes it one of the *suspects*; it waits until
    each slice that one label in 20 belongs to has enough blocks. Roll back: shown worse, or a slice shown worse by
    more than its margin, with alpha shared out between all of these (Bonferroni). In probation only the latter.
    """
    assert policy.block is not None
    assert policy.metric is not None
    share = policy.alpha * (PROBATION_SHARE if in_probation else ROLLOUT_SHARE)
    lost = _loss(policy.metric, truth, new, old)
    overall = block_statistic(lost, times_us, policy.block, share)
    parts = {key: np.flatnonzero(mask) for key, mask in slices.items()}
    each = share / (1 + len(parts))
    found = {key: _in(places, lost, times_us, policy, each) for key, places in parts.items()}
    told = {f"{column}={value}": _numbers(part) for (column, value), part in found.items()}
    evidence = {"metric": policy.metric, **_numbers(overall), "slices": told}
    words = f"{policy.metric} differs by {overall.describe(policy.block)}, positive is worse"
    if _in(np.arange(len(times_us)), lost, times_us, policy, each).worse():
        return BlockResult("roll back", f"worse from day to day: {words}", evidence)
    for key, part in found.items():
        if part.worse(policy.metric_slices[key[0]]):
            where = f"where {key[0]} is {key[1]}, by more than {policy.metric_slices[key[0]]:g}"
            return BlockResult(
                "roll back", f"worse from day to day {where}: {policy.metric} {part.describe(policy.block)}", evidence
            )
    if in_probation or not overall.not_worse(policy.metric_margin):
        return BlockResult("keep collecting", words, evidence)
    weighty = {k: part for k, part in found.items() if part.blocks >= MIN_BLOCKS or slices[k].mean() >= RARE}
    young = [k for k, part in weighty.items() if part.blocks < MIN_BLOCKS]
    if young:
        named = ", ".join(f"{column} {value}" for column, value in young)
        return BlockResult(
            "keep collecting", f"not worse overall, but {named} has not been seen on enough days; {words}", evidence
        )
    harmed = [k for k, part in weighty.items() if k in suspects or part.mean > policy.metric_slices[k[0]]]
    if harmed:
        named = ", ".join(f"{column} {value}" for column, value in harmed)
        said = f"not worse overall, but it looks worse where {named}; {words}"
        return BlockResult("keep collecting", said, evidence, suspected=True)
    return BlockResult("promote", f"not worse by more than {policy.metric_margin:g} from day to day: {words}", evidence)


def _loss(metric: str, truth: metrics.Labels, new: Scores, old: Scores) -> Callable[[Ints], float]:
    """How much of *metric* the release loses on some rows: positive is worse, whichever way the metric points."""

    def lost(rows: Ints) -> float:
        mask = np.zeros(len(truth), dtype=bool)
        mask[rows] = True
        part = truth[mask]
        values = [metrics.measure(metric, part, scores.take(mask)) for scores in (new, old)]
        return -float(metrics.gain(metric, values[0], values[1])[0])

    return lost


def _in(places: Ints, lost: Callable[[Ints], float], times_us: Ints, policy: RolloutPolicy, alpha: float) -> BlockMean:
    assert policy.block is not None
    return block_statistic(lambda rows: lost(places[rows]), times_us[places], policy.block, alpha)


def _numbers(found: BlockMean) -> dict[str, Any]:
    wide = found.half_width if np.isfinite(found.half_width) else None
    return {"blocks": found.blocks, "mean": found.mean, "half_width": wide}
