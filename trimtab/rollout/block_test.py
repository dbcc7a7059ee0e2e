"""The verdict when a block of data time is one observation (`rollout.block`).

It compares the gate's metric of both releases on the same rows, block by block. The loss differences of single labels
(`trimtab.rollout.sequential_test`) then only raise suspicion, which keeps users away from the release until the blocks
decide.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from trimtab.data.arrays import Ints, Labels, Mask
from trimtab.evaluation import metrics
from trimtab.model.scoring import Scores
from trimtab.rollout.block_means import MIN_BLOCKS, BlockMean, block_statistic
from trimtab.rollout.sequential_test import PROBATION_SHARE, RARE, ROLLOUT_SHARE
from trimtab.rollout.state_machine import RolloutPolicy
from trimtab.rollout.verdict import VerdictOutcome


@dataclass(frozen=True)
class BlockResult:
    """The outcome, its reason in words, and the numbers.

    *suspected* means that overall it is not worse, but a slice looks worse without being shown worse.
    """

    outcome: VerdictOutcome
    reason: str
    evidence: dict[str, Any]
    suspected: bool = False


def judge_blocks(
    truth: Labels,
    new: Scores,
    old: Scores,
    times_us: Ints,
    policy: RolloutPolicy,
    *,
    slices: Mapping[tuple[str, str], Mask],
    suspects: Collection[tuple[str, str]] = (),
    in_probation: bool,
) -> BlockResult:
    """Compare *new* with *old* on the same rows in blocks of ``policy.block``; arrays and masks have shape (n,).

    Promote: shown not worse by ``policy.metric_margin``, and no slice looks worse, neither in the mean over its blocks
    by more than its margin nor as one of the *suspects* (slices whose labels have a mean loss difference above the
    margin). Roll back: shown worse overall, or shown worse by more than its margin in a slice; alpha is divided equally
    among these tests (Bonferroni). A promotion waits until each slice with at least one label in `RARE` has enough
    blocks. In probation the only outcomes are roll back and keep collecting.

    Needs ``policy.block`` and ``policy.metric``.
    """
    assert policy.block is not None
    assert policy.metric is not None
    share = policy.alpha * (PROBATION_SHARE if in_probation else ROLLOUT_SHARE)
    lost = _loss(policy.metric, truth, new, old)
    overall = block_statistic(lost, times_us, policy.block, share)
    rows_of = {key: np.flatnonzero(mask) for key, mask in slices.items()}
    each = share / (1 + len(rows_of))
    found = {key: _mean_over(rows, lost, times_us, policy, each) for key, rows in rows_of.items()}
    by_slice = {f"{column}={value}": _numbers(part) for (column, value), part in found.items()}
    evidence = {"metric": policy.metric, **_numbers(overall), "slices": by_slice}
    words = f"{policy.metric} differs by {overall.describe(policy.block)}, positive is worse"
    if _mean_over(np.arange(len(times_us)), lost, times_us, policy, each).worse():
        return BlockResult("roll back", f"worse from day to day: {words}", evidence)
    for key, part in found.items():
        if part.worse(policy.metric_slices[key[0]]):
            where = f"where {key[0]} is {key[1]}, by more than {policy.metric_slices[key[0]]:g}"
            return BlockResult(
                "roll back", f"worse from day to day {where}: {policy.metric} {part.describe(policy.block)}", evidence
            )
    if in_probation or not overall.not_worse(policy.metric_margin):
        return BlockResult("keep collecting", words, evidence)
    counted = {k: part for k, part in found.items() if part.blocks >= MIN_BLOCKS or slices[k].mean() * RARE >= 1}
    too_few = [k for k, part in counted.items() if part.blocks < MIN_BLOCKS]
    if too_few:
        named = ", ".join(f"{column} {value}" for column, value in too_few)
        return BlockResult(
            "keep collecting", f"not worse overall, but {named} has not been seen on enough days; {words}", evidence
        )
    harmed = [k for k, part in counted.items() if k in suspects or part.mean > policy.metric_slices[k[0]]]
    if harmed:
        named = ", ".join(f"{column} {value}" for column, value in harmed)
        reason = f"not worse overall, but it looks worse where {named}; {words}"
        return BlockResult("keep collecting", reason, evidence, suspected=True)
    return BlockResult("promote", f"not worse by more than {policy.metric_margin:g} from day to day: {words}", evidence)


def _loss(metric: str, truth: Labels, new: Scores, old: Scores) -> Callable[[Ints], float]:
    """Return the function that computes the loss in *metric* on given rows: positive is worse, for every metric."""

    def lost(rows: Ints) -> float:
        mask = np.zeros(len(truth), dtype=bool)
        mask[rows] = True
        part = truth[mask]
        values = [metrics.measure(metric, part, scores.take(mask)) for scores in (new, old)]
        return -float(metrics.gain(metric, values[0], values[1])[0])

    return lost


def _mean_over(
    rows: Ints, lost: Callable[[Ints], float], times_us: Ints, policy: RolloutPolicy, alpha: float
) -> BlockMean:
    assert policy.block is not None
    return block_statistic(lambda at: lost(rows[at]), times_us[rows], policy.block, alpha)


def _numbers(found: BlockMean) -> dict[str, Any]:
    wide = found.half_width if np.isfinite(found.half_width) else None
    return {"blocks": found.blocks, "mean": found.mean, "half_width": wide}
