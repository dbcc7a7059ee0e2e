"""What pairs of predictions and their labels show of a rollout: loss differences for the verdict, and the guardrails,
which need no label.

Frames in, numbers out; `stores.rollout_observation` reads the frames. "The release" is the one that the rollout is
about: the challenger, and after its promotion the champion.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd

from trimtab.data.arrays import Floats, Mask
from trimtab.data.features import texts
from trimtab.data.types import Label
from trimtab.model.scoring import Scores
from trimtab.rollout import block_test, losses, sequential_test
from trimtab.rollout.block_test import BlockResult
from trimtab.rollout.state_machine import Observation, RolloutPolicy, RolloutState

_SLOWEST = 0.9  # the quantile of latencies that is compared
_SURE = 1e-4  # chance that distance_beyond calls samples of one distribution apart


def orient_pairs(pairs: pd.DataFrame, release: str, policy: RolloutPolicy) -> pd.DataFrame:
    """Return the *pairs* of *release* in the form (release, other), whichever of the two was champion.

    Adds the columns new and old (predictions of the release and the other), new_shares and old_shares (probabilities,
    multiclass only), new_us and old_us (microseconds per call), is_challenger (the release was the challenger) and
    exposed (users received its answer).
    """
    is_challenger = (pairs["challenger"] == release).to_numpy()
    ours = pairs[is_challenger | (pairs["champion"] == release).to_numpy()].reset_index(drop=True)
    is_challenger = (ours["challenger"] == release).to_numpy()
    found = ours.assign(
        is_challenger=is_challenger, exposed=np.where(is_challenger, ours["by_challenger"].astype(bool), True)
    )
    kinds = ("prediction", "probabilities", "us") if policy.task == "multiclass" else ("prediction", "us")
    names = {"prediction": "", "probabilities": "_shares", "us": "_us"}
    for kind in kinds:
        mine, others = ours[f"challenger_{kind}"], ours[f"champion_{kind}"]
        found[f"new{names[kind]}"] = mine.where(is_challenger, others)
        found[f"old{names[kind]}"] = others.where(is_challenger, mine)
    return found


def join_labels(found: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """Return the oriented pairs that have a label, in order of arrival, with the columns label and arrived."""
    known = labels[["prediction_id", "label", "received_at"]].rename(columns={"received_at": "arrived"})
    both = found.merge(known, on="prediction_id", how="inner", sort=False)
    return both.sort_values(["arrived", "prediction_id"], ignore_index=True)


def differences(known: pd.DataFrame, release: str, other: str, policy: RolloutPolicy) -> Floats:
    """Return the loss of *release* minus that of *other* per labelled pair: shape (n,), in [-1, 1]."""
    loss = policy.loss_of(policy.task)
    if policy.task != "multiclass":
        truth = known["label"].to_numpy(dtype=float)
        old, new = known["old"].to_numpy(dtype=float), known["new"].to_numpy(dtype=float)
        return losses.differences(loss, truth, old, new, cap=policy.cap)
    mine, others = policy.classes[release], policy.classes[other]
    classes = tuple(dict.fromkeys(texts([*others, *mine])))
    truth = np.array(texts(known["label"].tolist()), dtype=object)
    return losses.differences(
        loss, truth, _shares(known["old_shares"], others, classes), _shares(known["new_shares"], mine, classes),
        classes=classes,
    )  # fmt: skip


def _shares(rows: pd.Series[Any], known: Sequence[Label], classes: Sequence[str | None]) -> Floats:
    """Return probabilities over *classes*, shape (n, len(classes)): 0 for a class that the model lacks, nan where
    missing.
    """
    places = [list(classes).index(name) for name in texts(known)]
    matrix = np.zeros((len(rows), len(classes)))
    blank = [float("nan")] * len(known)
    given = [blank if row is None or len(row) != len(known) else row for row in rows]
    matrix[:, places] = np.array(given, dtype=float).reshape(len(rows), len(known))
    return matrix


def broken_guardrails(found: pd.DataFrame, policy: RolloutPolicy) -> tuple[str, ...]:
    """Return the guardrails that the release broke, in words. *found* holds oriented pairs.

    In probation the previous champion answers the rows on which the new one fails, so these pairs count as well.
    """
    limits, shadowed = policy.guardrails, found[found["is_challenger"]]
    failed = shadowed["error"].notna().to_numpy()
    broken = []
    if (errors := int(failed.sum())) > limits.max_errors:
        example = str(shadowed.loc[failed, "error"].iloc[0])[:200]
        broken.append(f"it failed on {errors:,} of {len(shadowed):,} requests that the champion answered: {example}")
    missing = int((~failed & ~np.isfinite(shadowed["new"].to_numpy(dtype=float))).sum())
    if missing > limits.max_missing:
        broken.append(f"{missing:,} of its {len(shadowed):,} answers are no number")
    answered = shadowed[~failed & np.isfinite(shadowed["new"].to_numpy(dtype=float))]
    if len(answered) < limits.min_answers:
        return tuple(broken)
    mine_ms, champions_ms = (float(answered[name].quantile(_SLOWEST)) / 1000 for name in ("new_us", "old_us"))
    if mine_ms > limits.latency_ms and mine_ms > limits.latency_ratio * champions_ms:
        broken.append(f"one call in ten takes {mine_ms:.3g} ms or more, of the champion's {champions_ms:.3g} ms")
    if answered["new"].nunique() == 1 and answered["old"].nunique() > 1:
        broken.append(f"it gives the same answer to everything: {answered['new'].iloc[0]:g}")
    if (apart := _far_from_the_shadow(answered, policy)) is not None:
        broken.append(apart)
    return tuple(broken)


def _far_from_the_shadow(answered: pd.DataFrame, policy: RolloutPolicy) -> str | None:
    """Compare the outputs that users received with those in the shadow over the same time.

    Keys are assigned at random, so both must have the same distribution.
    """
    exposed = answered["exposed"].to_numpy(dtype=bool)
    if not exposed.any():
        return None
    since = answered["received_at"] >= answered.loc[exposed, "received_at"].min()
    given, shadow = (answered.loc[since & (exposed == side), "new"].to_numpy(dtype=float) for side in (True, False))
    if min(len(given), len(shadow)) < policy.guardrails.min_answers:
        return None
    beyond = ks_distance_lower_bound(given, shadow)
    if beyond <= policy.guardrails.distance:
        return None
    return f"the answers that users get are distributed otherwise than those in its shadow: distance over {beyond:.2f}"


def ks_distance_lower_bound(one: Floats, other: Floats) -> float:
    """Return a lower bound of the Kolmogorov-Smirnov distance between the distributions of two samples, shape (n,) and
    (m,).

    The bound is the distance of the samples minus the Dvoretzky-Kiefer-Wolfowitz deviation of each with Massart's
    constant (Massart 1990, Annals of Probability 18, 1269-1283). It fails with probability at most 1e-4. It is
    negative when the samples do not show a distance.

    >>> ks_distance_lower_bound(np.zeros(1000), np.ones(1000)) > 0.8
    True
    """
    values = np.concatenate([one, other])
    shares = [np.searchsorted(np.sort(sample), values, side="right") / len(sample) for sample in (one, other)]
    chance = sum(float(np.sqrt(np.log(4 / _SURE) / (2 * len(sample)))) for sample in (one, other))
    return float(np.abs(shares[0] - shares[1]).max()) - chance


def observe(
    pairs: pd.DataFrame, labels: pd.DataFrame, *, release: str, other: str, at: RolloutState, policy: RolloutPolicy
) -> Observation:
    """Return what the *pairs* of a rollout and all *labels* show of *release* in the state *at*.

    In shadow and canary every label counts, in probation only labels that arrived after those of the promotion.
    """
    found = orient_pairs(pairs, release, policy)
    if found.empty:
        return Observation()
    known = join_labels(found, labels)
    if at.in_probation and at.labels_until is not None:
        known = known[known["arrived"] > pd.Timestamp(at.labels_until)].reset_index(drop=True)
    values = differences(known, release, other, policy)
    judge = sequential_test.judge_after_promotion if at.in_probation else sequential_test.judge
    judged = judge(values, policy, slices=_slices(known, policy))
    outcome, reason, suspected, numbers = judged.outcome, judged.reason, False, judged.model_dump(mode="json")
    if policy.block is not None and len(known):
        blocks = _by_block(known, values, release, other, at, policy)
        outcome, reason, numbers["by_block"] = blocks.outcome, blocks.reason, blocks.evidence
        suspected = blocks.suspected
        if judged.outcome == "roll back" and outcome == "keep collecting":
            suspected, reason = True, f"{reason}; the labels by themselves speak against it"
    newest = known["arrived"].max() if len(known) else None
    return Observation(
        pairs=len(found),
        exposed=int(found["exposed"].sum()),
        labels=len(known),
        elapsed=elapsed(found[~found["is_challenger"]] if at.in_probation else found),
        verdict=outcome,
        reason=reason,
        suspected=suspected,
        broken=broken_guardrails(found, policy),
        labels_until=newest.isoformat() if newest is not None else at.labels_until,
        evidence=numbers,
    )


def _by_block(
    known: pd.DataFrame, values: Floats, release: str, other: str, at: RolloutState, policy: RolloutPolicy
) -> BlockResult:
    """Return what blocks of time show of labelled pairs with the loss differences *values*."""
    truth, new, old = _both_scores(known, release, other, policy)
    times_us = np.asarray(known["time"].astype("datetime64[us, UTC]").astype("int64"), dtype=np.int64)
    masks = {key: mask for key, mask in _slices(known, policy).items() if key[0] in policy.metric_slices}
    enough = {key: mask for key, mask in masks.items() if mask.sum() >= policy.min_slice_labels}
    suspects = [key for key, mask in enough.items() if np.nanmean(values[mask]) > policy.slices[key[0]]]
    return block_test.judge_blocks(
        truth, new, old, times_us, policy, slices=masks, suspects=suspects, in_probation=at.in_probation
    )


def _both_scores(known: pd.DataFrame, release: str, other: str, policy: RolloutPolicy) -> tuple[Any, Scores, Scores]:
    """Return the labels, and both models' scores as the gate's metric takes them. Missing answers make it undefined."""
    if policy.task != "multiclass":
        truth = known["label"].to_numpy(dtype=float)
        return truth, *(Scores(policy.task, known[side].to_numpy(dtype=float)) for side in ("new", "old"))  # type: ignore[return-value]
    classes = tuple(str(c) for c in dict.fromkeys(texts([*policy.classes[other], *policy.classes[release]])))
    sides = (("new_shares", release), ("old_shares", other))
    shares = [_shares(known[column], policy.classes[digest], classes) for column, digest in sides]
    truth = np.array(texts(known["label"].tolist()), dtype=object)
    return truth, *(_chosen(matrix, classes) for matrix in shares)  # type: ignore[return-value]


def _chosen(shares: Floats, classes: tuple[str, ...]) -> Scores:
    best = np.nan_to_num(shares, nan=-1.0).argmax(axis=1)
    labels = tuple(classes[i] for i in best.tolist())
    return Scores("multiclass", shares[np.arange(len(shares)), best], classes, labels, shares)


def elapsed(found: pd.DataFrame) -> timedelta:
    """Return the data time that the pairs cover.

    It runs from the median time of the first twentieth of the pairs, in order of arrival, to that of the last, so a few
    rows with a wrong time do not change it.
    """
    if found.empty:
        return timedelta(0)
    few = max(1, len(found) // 20)
    times = found.sort_values("received_at", kind="stable")["time"].astype("datetime64[us, UTC]").astype("int64")
    span_us = float(np.median(times.tail(few)) - np.median(times.head(few)))
    return timedelta(microseconds=max(0.0, span_us))


def _slices(known: pd.DataFrame, policy: RolloutPolicy) -> dict[tuple[str, str], Mask]:
    """Return a mask for every value of every slice column."""
    masks = {}
    for column in policy.slices:
        if column in known:
            values = known[column].astype(object).to_numpy()
            for value in sorted({str(v) for v in values if isinstance(v, str)}):
                masks[(column, value)] = values == value
    return masks
