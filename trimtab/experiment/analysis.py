"""The report of an A/B experiment, computed from its pairs, answers and labels.

`operations.experiments` reads the frames, `trimtab.experiment.report` defines the report.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from trimtab.data.arrays import Floats, Labels, Mask
from trimtab.data.features import texts
from trimtab.evaluation import metrics
from trimtab.experiment.report import (
    BROKEN_BELOW,
    POWER,
    Arm,
    BlockEffect,
    Effect,
    EffectFinding,
    Estimate,
    ExperimentPlan,
    ExperimentState,
    Power,
    Report,
    SampleRatioCheck,
)
from trimtab.model.scoring import Scores
from trimtab.rollout import block_means, evalues, observation
from trimtab.rollout.state_machine import RolloutPolicy

RESAMPLES = 200
SEED = 20130101
_FEWEST = 5  # expected count per arm that the chi-square approximation needs


def broken_guardrails(found: pd.DataFrame, policy: RolloutPolicy) -> tuple[str, ...]:
    """Return the guardrails that B broke, in words: errors, missing answers, latency, constant output.

    The guardrail on the output's distribution is left out: an experiment may try a release that answers differently.
    """
    tolerant = policy.guardrails.model_copy(update={"distance": 1.0})
    return observation.broken_guardrails(found, policy.model_copy(update={"guardrails": tolerant}))


def report(
    plan: ExperimentPlan,
    policy: RolloutPolicy,
    *,
    metric: str,
    state: ExperimentState,
    reason: str,
    pairs: pd.DataFrame,
    answers: pd.DataFrame,
    labels: pd.DataFrame,
) -> Report:
    """Return the report of the experiment *plan* under *policy*.

    *pairs* and *labels* are telemetry frames. *answers* are the predictions that users received, with the columns
    prediction_id, arm, propensity and prediction, for multiclass also predicted_label and probabilities, and key where
    the project has one.
    """
    found = observation.orient_pairs(pairs, plan.b, policy)
    known = observation.join_labels(found, labels)
    differences = observation.differences(known, plan.b, plan.a, policy)
    whole = _effect(differences, policy, alpha=policy.alpha)
    by_block = block_effect(known, differences, policy)
    split, broken = sample_ratio_check(answers, plan.share), broken_guardrails(found, policy)
    a, b, gain = arm_metrics(plan, policy, metric, answers, labels)
    return Report(
        plan=plan, state=state, reason=reason, elapsed=observation.elapsed(found), loss=policy.loss_of(policy.task),
        alpha=policy.alpha, margin=policy.margin, metric=metric, pairs=len(found), a=a, b=b, gain=gain,
        sample_ratio=split, effect=whole, slices=slice_effects(known, differences, policy), by_block=by_block,
        power=power(differences, policy), broken=broken, conclusion=_conclusion(whole, by_block, split),
    )  # fmt: skip


def sample_ratio_check(answers: pd.DataFrame, share: float) -> SampleRatioCheck:
    """Compare the number of keys per arm in *answers* with the planned *share* of B.

    A key belongs to B when B answered it at least once. A key whose answers from B were all replaced is missing in B.

    >>> answers = pd.DataFrame({"arm": ["champion", "challenger"] * 50, "propensity": 0.5})
    >>> sample_ratio_check(answers, 0.5).p_value
    1.0
    """
    by_b = (answers["arm"] == "challenger").to_numpy()
    replaced = int((~by_b & (answers["propensity"] == 1.0).to_numpy()).sum())
    has_keys = "key" in answers and bool(answers["key"].notna().any())
    owners = pd.Series(by_b)
    if has_keys:
        owners = owners.groupby(answers["key"].fillna(answers["prediction_id"]).to_numpy()).any()
    count, b = len(owners), int(owners.sum())
    chi_square = p_value = holds = None
    if count * min(share, 1 - share) >= _FEWEST:
        chi_square = (b - count * share) ** 2 / (count * share * (1 - share))
        p_value = math.erfc(math.sqrt(chi_square / 2))
        holds = p_value >= BROKEN_BELOW
    return SampleRatioCheck(
        unit="keys" if has_keys else "answers", a=count - b, b=b, chosen=share, chi_square=chi_square,
        p_value=p_value, holds=holds, replaced=replaced,
    )  # fmt: skip


def slice_effects(known: pd.DataFrame, differences: Floats, policy: RolloutPolicy) -> tuple[Effect, ...]:
    """Return the effect in every value of the slice columns.

    All intervals hold together at 1 - alpha: the j-th value to receive a label has alpha / (j (j + 1)), and these sum
    to alpha for any number of values.
    """
    first: dict[tuple[str, str], tuple[int, Mask]] = {}
    for column in policy.slices:
        values = texts(known[column].astype(object).tolist()) if column in known else []
        for value in {v for v in values if v is not None}:
            mask = np.array([v == value for v in values])
            first[(column, value)] = (int(mask.argmax()), mask)
    ordered = sorted(first, key=lambda key: (first[key][0], key))
    return tuple(
        _effect(differences[first[key][1]], policy, alpha=policy.alpha / (j * (j + 1)), key=key)
        for j, key in enumerate(ordered, 1)
    )


def _effect(differences: Floats, policy: RolloutPolicy, *, alpha: float, key: tuple[str, str] | None = None) -> Effect:
    values = differences[np.isfinite(differences)]
    low, high = evalues.interval(values, alpha=alpha)
    margin = policy.margin if key is None else policy.slices[key[0]]
    enough = len(values) >= (1 if key is None else policy.min_slice_labels)
    finding = _finding(low, high, margin) if enough else "too few labels"
    return Effect(
        column=key[0] if key else None, value=key[1] if key else None, labels=len(values),
        difference=float(values.mean()) if len(values) else None, low=low, high=high, finding=finding,
    )  # fmt: skip


def _finding(low: float, high: float, margin: float) -> EffectFinding:
    if high < 0 or low > 0:
        return "B is better" if high < 0 else "B is worse"
    return "no difference that matters" if -margin < low and high < margin else "not told apart"


def block_effect(known: pd.DataFrame, differences: Floats, policy: RolloutPolicy) -> BlockEffect | None:
    """Return the overall effect over blocks of time, or None where the policy has no block.

    Each side of the interval has half of alpha.
    """
    if policy.block is None:
        return None
    times_us: Any = known["time"].astype("datetime64[us, UTC]").astype("int64").to_numpy()
    found = block_means.block_mean(differences, times_us, policy.block, policy.alpha / 2)
    if not math.isfinite(found.half_width):
        return BlockEffect(
            block=policy.block, blocks=found.blocks, difference=None, low=None, high=None, finding="too few blocks"
        )
    low, high = found.mean - found.half_width, found.mean + found.half_width
    enough = found.blocks >= block_means.MIN_BLOCKS
    return BlockEffect(
        block=policy.block, blocks=found.blocks, difference=found.mean, low=low, high=high,
        finding=_finding(low, high, policy.margin) if enough else "too few blocks",
    )  # fmt: skip


def power(differences: Floats, policy: RolloutPolicy) -> Power:
    """Return what the labels so far would probably show. Each side of the interval has half of alpha."""
    values = differences[np.isfinite(differences)]
    sd = float(values.std()) if len(values) > 1 else 0.0
    if sd == 0:
        return Power()

    def detectable(labels: int) -> float:
        return evalues.detectable(labels, sd, alpha=policy.alpha / 2, power=POWER, margin=policy.margin)

    few, enough = 0, 1
    while detectable(enough) > policy.margin:
        few, enough = enough, 2 * enough
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (middle, enough) if detectable(middle) > policy.margin else (few, middle)
    return Power(
        sd=sd, detectable=detectable(len(values)), needed=enough, still_needed=max(0, enough - len(values))
    )  # fmt: skip


def arm_metrics(
    plan: ExperimentPlan, policy: RolloutPolicy, metric: str, answers: pd.DataFrame, labels: pd.DataFrame
) -> tuple[Arm, Arm, Estimate]:
    """Return both arms and how much better B's metric is, with bootstrap intervals.

    The bootstrap resamples keys, not rows, because keys are assigned to the arms.
    """
    known = answers.merge(labels[["prediction_id", "label"]], on="prediction_id", how="inner", sort=False)
    made = []
    for arm, release, seed in (("champion", plan.a, SEED), ("challenger", plan.b, SEED + 1)):
        mine = known[known["arm"] == arm].reset_index(drop=True)
        made.append((release, arm, len(mine), *_resampled(mine, release, policy, metric, seed)))
    a, b = (
        Arm(
            release=release, answers=int((answers["arm"] == arm).sum()), labels=rows,
            metric=_measured(metrics.interval(replicates, value)),
        )
        for release, arm, rows, value, replicates in made
    )  # fmt: skip
    (_, _, _, old, olds), (_, _, _, new, news) = made
    gains = metrics.gain(metric, news, olds)
    gain = float(metrics.gain(metric, np.array([new]), np.array([old]))[0])
    return a, b, _measured(metrics.interval(gains, gain))


def _resampled(mine: pd.DataFrame, release: str, policy: RolloutPolicy, metric: str, seed: int) -> tuple[float, Floats]:
    """Return the metric on these rows and its bootstrap replicates, shape (RESAMPLES,)."""
    truth, scores = _scored(mine, release, policy)
    value = float(metrics.measure(metric, truth, scores)[0])
    drawn_by = mine["key"].fillna(mine["prediction_id"]) if "key" in mine else mine["prediction_id"]
    codes, names = pd.factorize(drawn_by)
    if not len(mine) or not math.isfinite(value):
        return value, np.full(RESAMPLES, np.nan)
    measured = metrics.weighted(metric, truth, scores)
    replicates = [
        measured(weights[:, codes])
        for weights in metrics.resampling(len(names), resamples=RESAMPLES, seed=seed, rows=len(mine))
    ]
    return value, np.concatenate(replicates)


def _scored(mine: pd.DataFrame, release: str, policy: RolloutPolicy) -> tuple[Labels, Scores]:
    prediction = mine["prediction"].to_numpy(dtype=float)
    if policy.task != "multiclass":
        return mine["label"].to_numpy(dtype=float), Scores(policy.task, prediction, policy.classes.get(release, ()))
    known = tuple(str(label) for label in texts(policy.classes[release]))
    shares = np.array(mine["probabilities"].tolist(), dtype=float).reshape(len(mine), len(known))
    truth = np.array(texts(mine["label"].tolist()), dtype=object)
    chosen = tuple(str(label) for label in mine["predicted_label"])
    return truth, Scores("multiclass", prediction, known, chosen, shares)


def _measured(found: metrics.Interval) -> Estimate:
    numbers = (found.value, found.low, found.high)
    value, low, high = (number if math.isfinite(number) else None for number in numbers)
    return Estimate(value=value, low=low, high=high)


def _conclusion(effect: Effect, by_block: BlockEffect | None, split: SampleRatioCheck) -> str:
    if split.holds is False:
        got = split.b / (split.a + split.b)
        return (
            f"not valid: B has {got:.1%} of the {split.unit} where {split.chosen:.1%} were to be, which chance does "
            f"not explain (p = {split.p_value:.1g}): find out why before you believe any other number here"
        )
    if effect.difference is None:
        return "no label has arrived yet"
    seen = f"{effect.difference:+.4f} ({effect.low:+.4f} to {effect.high:+.4f}) over {effect.labels:,} labels"
    text = f"{effect.finding}: mean loss of B less that of A {seen}"
    if by_block is None or effect.finding in {by_block.finding, "not told apart"}:
        return text
    return f"not from day to day yet ({by_block.finding}), though by the labels {text}"
