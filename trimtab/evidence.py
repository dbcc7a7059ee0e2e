"""What pairs of predictions and their labels say about the release on trial: loss differences for the verdict, and the
guardrails, which need no label. Frames in, numbers out; where they come from is `stores.evidence`'s business."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd

from trimtab import blocks, losses, verdict
from trimtab.features import texts
from trimtab.release import Label
from trimtab.rollout import Seen, Standing, Terms
from trimtab.verdict import Outcome, Verdict

Floats = np.ndarray[Any, np.dtype[np.float64]]
_SURE = 1e-4  # chance that distance_beyond calls samples of one distribution apart


def oriented(pairs: pd.DataFrame, release: str, terms: Terms) -> pd.DataFrame:
    """*pairs* as (on trial, other) whoever of the two was champion, with the columns new, old (predictions),
    new_shares, old_shares (multiclass), new_us, old_us, is_trial (the release did not answer by itself) and exposed
    (users got its answer)."""
    is_trial = (pairs["challenger"] == release).to_numpy()
    ours = pairs[is_trial | (pairs["champion"] == release).to_numpy()].reset_index(drop=True)
    is_trial = (ours["challenger"] == release).to_numpy()
    found = ours.assign(is_trial=is_trial, exposed=np.where(is_trial, ours["by_challenger"].astype(bool), True))
    kinds = ("prediction", "probabilities", "us") if terms.task == "multiclass" else ("prediction", "us")
    names = {"prediction": "", "probabilities": "_shares", "us": "_us"}
    for kind in kinds:
        mine, others = ours[f"challenger_{kind}"], ours[f"champion_{kind}"]
        found[f"new{names[kind]}"] = mine.where(is_trial, others)
        found[f"old{names[kind]}"] = others.where(is_trial, mine)
    return found


def labelled(found: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """The oriented pairs whose label has arrived, in the order of arrival, with the columns label and arrived."""
    known = labels[["prediction_id", "label", "received_at"]].rename(columns={"received_at": "arrived"})
    both = found.merge(known, on="prediction_id", how="inner", sort=False)
    return both.sort_values(["arrived", "prediction_id"], ignore_index=True)


def differences(known: pd.DataFrame, release: str, other: str, terms: Terms) -> Floats:
    """Loss of the release on trial minus the other's, per labelled pair, in [-1, 1], shape (n,)."""
    loss = terms.loss_of(terms.task)
    if terms.task != "multiclass":
        truth = known["label"].to_numpy(dtype=float)
        old, new = known["old"].to_numpy(dtype=float), known["new"].to_numpy(dtype=float)
        return losses.differences(loss, truth, old, new, cap=terms.cap)
    mine, others = terms.classes[release], terms.classes[other]
    classes = tuple(dict.fromkeys(texts([*others, *mine])))
    truth = np.array(texts(known["label"].tolist()), dtype=object)
    return losses.differences(
        loss, truth, _shares(known["old_shares"], others, classes), _shares(known["new_shares"], mine, classes),
        classes=classes,
    )  # fmt: skip


def _shares(rows: pd.Series[Any], known: Sequence[Label], classes: Sequence[str | None]) -> Floats:
    """Probability vectors over *classes*; a label that the model does not know has none. A missing one is nan."""
    places = [list(classes).index(name) for name in texts(known)]
    matrix = np.zeros((len(rows), len(classes)))
    blank = [float("nan")] * len(known)
    given = [blank if row is None or len(row) != len(known) else row for row in rows]
    matrix[:, places] = np.array(given, dtype=float).reshape(len(rows), len(known))
    return matrix


def guardrails(found: pd.DataFrame, terms: Terms) -> tuple[str, ...]:
    """The guardrails that the release on trial broke, in words; found are oriented pairs."""
    rules, trial = terms.guardrails, found[found["is_trial"]]
    failed = trial["error"].notna().to_numpy()
    broken = []
    if (errors := int(failed.sum())) > rules.max_errors:
        example = str(trial.loc[failed, "error"].iloc[0])[:200]
        broken.append(f"it failed on {errors:,} of {len(trial):,} requests that the champion answered: {example}")
    missing = int((~failed & ~np.isfinite(trial["new"].to_numpy(dtype=float))).sum())
    if missing > rules.max_missing:
        broken.append(f"{missing:,} of its {len(trial):,} answers are no number")
    answered = trial[~failed & np.isfinite(trial["new"].to_numpy(dtype=float))]
    if len(answered) < rules.min_answers:
        return tuple(broken)
    mine_ms, champions_ms = (float(answered[name].median()) / 1000 for name in ("new_us", "old_us"))
    if mine_ms > rules.latency_ms and mine_ms > rules.latency_ratio * champions_ms:
        broken.append(f"it takes {mine_ms:.3g} ms for a call, the champion {champions_ms:.3g} ms")
    if answered["new"].nunique() == 1 and answered["old"].nunique() > 1:
        broken.append(f"it gives the same answer to everything: {answered['new'].iloc[0]:g}")
    if (apart := _far_from_the_shadow(answered, terms)) is not None:
        broken.append(apart)
    return tuple(broken)


def _far_from_the_shadow(answered: pd.DataFrame, terms: Terms) -> str | None:
    """Keys are dealt by chance, so what users get must be distributed like what the shadow gives at the same time."""
    exposed = answered["exposed"].to_numpy(dtype=bool)
    if not exposed.any():
        return None
    since = answered["received_at"] >= answered.loc[exposed, "received_at"].min()
    given, shadow = (answered.loc[since & (exposed == side), "new"].to_numpy(dtype=float) for side in (True, False))
    if min(len(given), len(shadow)) < terms.guardrails.min_answers:
        return None
    beyond = distance_beyond(given, shadow)
    if beyond <= terms.guardrails.distance:
        return None
    return f"the answers that users get are distributed otherwise than those in its shadow: distance over {beyond:.2f}"


def distance_beyond(one: Floats, other: Floats) -> float:
    """What the Kolmogorov-Smirnov distance of two distributions is at least, all but surely: the distance of the
    samples less what chance explains (Massart's form of the Dvoretzky-Kiefer-Wolfowitz bound, 1990)."""
    values = np.concatenate([one, other])
    shares = [np.searchsorted(np.sort(sample), values, side="right") / len(sample) for sample in (one, other)]
    chance = sum(float(np.sqrt(np.log(4 / _SURE) / (2 * len(sample)))) for sample in (one, other))
    return float(np.abs(shares[0] - shares[1]).max()) - chance


def seen(pairs: pd.DataFrame, labels: pd.DataFrame, *, release: str, other: str, at: Standing, terms: Terms) -> Seen:
    """What the *pairs* of a rollout and all *labels* say of *release* in the state it is in.

    On trial every label counts; in court only those that arrived after the ones that the promotion rests on.
    """
    found = oriented(pairs, release, terms)
    if found.empty:
        return Seen()
    known = labelled(found, labels)
    if at.in_court and at.labels_until is not None:
        known = known[known["arrived"] > pd.Timestamp(at.labels_until)].reset_index(drop=True)
    values = differences(known, release, other, terms)
    if at.in_court:
        judged = verdict.convict(values, terms, slices=_slices(known, terms))
    else:
        judged = verdict.judge(values, terms, slices=_slices(known, terms))
    newest = known["arrived"].max() if len(known) else None
    outcome, reason, days = _from_day_to_day(judged, values, known, at, terms)
    return Seen(
        pairs=len(found),
        exposed=int(found["exposed"].sum()),
        labels=len(known),
        elapsed=elapsed(found[~found["is_trial"]] if at.in_court else found),
        verdict=outcome,
        reason=reason,
        broken=guardrails(found, terms) if at.on_trial else (),
        labels_until=newest.isoformat() if newest is not None else at.labels_until,
        evidence={**judged.model_dump(mode="json"), "blocks": days},
    )


def _from_day_to_day(
    judged: Verdict, values: Floats, known: pd.DataFrame, at: Standing, terms: Terms
) -> tuple[Outcome, str, dict[str, float] | None]:
    """The verdict, held against blocks of time where the terms name any. On trial doubt counts against the challenger:
    it needs both to be promoted, and is taken back on the labels alone. In court doubt counts for the champion."""
    if terms.block is None or not len(known):
        return judged.outcome, judged.reason, None
    times_us = np.asarray(known["time"].astype("datetime64[us, UTC]").astype("int64"), dtype=np.int64)
    found = blocks.daily(values, times_us, terms.block, terms.alpha)
    days = {"blocks": found.blocks, "mean": found.mean, "half_width": min(found.half_width, 1.0)}
    words = found.words(terms.block)
    if judged.outcome == "promote" and not found.not_worse(terms.margin):
        return "keep collecting", f"the labels speak for it, not yet from day to day: {words}", days
    if judged.outcome == "roll back" and at.in_court and not found.worse:
        return "keep collecting", f"the labels speak against it, not yet from day to day: {words}", days
    return judged.outcome, f"{judged.reason} ({words})" if judged.outcome != "keep collecting" else judged.reason, days


def elapsed(found: pd.DataFrame) -> timedelta:
    """Data time that went by: from the median of the first twentieth of the pairs, in the order they arrived, to that
    of the last. So a few rows with a strange time, or rows in no order, do not make the time pass."""
    if found.empty:
        return timedelta(0)
    few = max(1, len(found) // 20)
    times = found.sort_values("received_at", kind="stable")["time"].astype("datetime64[us, UTC]").astype("int64")
    span_us = float(np.median(times.tail(few)) - np.median(times.head(few)))
    return timedelta(microseconds=max(0.0, span_us))


def _slices(known: pd.DataFrame, terms: Terms) -> dict[tuple[str, str], np.ndarray[Any, np.dtype[np.bool_]]]:
    """A mask for every value of every named column."""
    masks = {}
    for column in terms.slices:
        if column in known:
            values = known[column].astype(object).to_numpy()
            for value in sorted({str(v) for v in values if isinstance(v, str)}):
                masks[(column, value)] = values == value
    return masks
