"""The gate: whether a candidate may be released. A candidate must reach an absolute floor, must not be worse than the
champion by more than a margin, and not worse in any named slice by more than that slice's margin.

The gate cannot be turned off.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from trimtab.config.sections import GateConfig
from trimtab.data.arrays import Floats, Labels
from trimtab.evaluation import metrics
from trimtab.evaluation.metrics import Interval
from trimtab.model.scoring import Scores

SEED = 20130101


@dataclass(frozen=True)
class SliceResult:
    """The comparison where *column* is *value*. *gain* is positive when the candidate is better."""

    column: str
    value: str
    rows: int
    candidate: float
    champion: float
    gain: Interval
    margin: float
    harmed: bool


@dataclass(frozen=True)
class GateResult:
    """Whether the candidate passes, the *reason* in words, and the numbers."""

    passed: bool
    reason: str
    metric: str
    rows: int
    candidate: Interval
    champion: Interval | None
    gain: Interval | None
    slices: tuple[SliceResult, ...] = ()

    def evidence(self) -> dict[str, Any]:
        """Return the numbers as plain JSON values; undefined numbers are null."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain


def evaluate_gate(
    gate: GateConfig,
    truth: Labels,
    candidate: Scores,
    champion: Scores | None = None,
    *,
    slices: pd.DataFrame | None = None,
) -> GateResult:
    """Compare *candidate* with *champion* on the same labelled rows, both in the order of *truth*, shape (n,).

    Without a champion, the candidate only has to reach the floor. *slices* has n rows and the columns of
    ``gate.slices``. A slice is harmed when the candidate is worse in it by more than its margin and the whole interval
    of the difference is below zero, at 95 % for all slices together (Bonferroni), so that many small slices do not
    reject a good model by chance. An undefined metric never passes.

    >>> gate = GateConfig(metric="accuracy", min=0.6)
    >>> evaluate_gate(gate, np.array([0, 1, 1]), Scores("binary", np.array([0.2, 0.9, 0.4]))).reason
    'first model: accuracy 0.6667 keeps the floor of 0.6'
    """
    name = gate.metric
    weights = metrics.resampling(len(truth), resamples=gate.resamples, seed=SEED)
    new = _with_interval(name, truth, candidate, weights)
    floor_kept = new.value <= gate.min if name in metrics.LOWER_IS_BETTER else new.value >= gate.min
    if not math.isfinite(new.value):
        reason = f"{name} is not defined on these {len(truth):,} rows: the candidate, or its labels, cannot be judged"
        return GateResult(False, reason, name, len(truth), new, None, None)
    if not floor_kept:
        side = "above" if name in metrics.LOWER_IS_BETTER else "below"
        reason = f"{name} {new.value:.4f} is {side} the floor of {gate.min:g}"
        return GateResult(False, reason, name, len(truth), new, None, None)
    if champion is None:
        reason = f"first model: {name} {new.value:.4f} keeps the floor of {gate.min:g}"
        return GateResult(True, reason, name, len(truth), new, None, None)

    old = _with_interval(name, truth, champion, weights)
    diff = _gain(name, truth, candidate, champion, weights)
    results = _slices(gate, truth, candidate, champion, slices, weights)
    harmed = [s for s in results if s.harmed]
    compared = f"{name} {new.value:.4f} against the champion's {old.value:.4f} on the same {len(truth):,} rows"
    if not diff.value >= -gate.max_regression:
        reason, passed = f"{compared}: worse by more than {gate.max_regression:g}", False
    elif harmed:
        worst = min(harmed, key=lambda s: s.gain.value)
        reason = (
            f"{compared}, but where {worst.column} is {worst.value} ({worst.rows:,} rows) it falls "
            f"from {worst.champion:.4f} to {worst.candidate:.4f}, more than {worst.margin:g}"
        )
        passed = False
    else:
        reason, passed = f"{compared}: {diff.value:+.4f} ({diff.low:+.4f} to {diff.high:+.4f})", True
    return GateResult(passed, reason, name, len(truth), new, old, diff, results)


def _with_interval(name: str, truth: Labels, scores: Scores, weights: Floats) -> Interval:
    value = float(metrics.measure(name, truth, scores)[0])
    return metrics.interval(metrics.measure(name, truth, scores, weights=weights), value)


def _gain(name: str, truth: Labels, new: Scores, old: Scores, weights: Floats, *, level: float = 0.95) -> Interval:
    value = metrics.gain(name, metrics.measure(name, truth, new), metrics.measure(name, truth, old))
    replicates = metrics.gain(
        name, metrics.measure(name, truth, new, weights=weights), metrics.measure(name, truth, old, weights=weights)
    )
    return metrics.interval(replicates, float(value[0]), level=level)


def _slices(
    gate: GateConfig, truth: Labels, new: Scores, old: Scores, slices: pd.DataFrame | None, weights: Floats
) -> tuple[SliceResult, ...]:
    named = [
        (column, value, margin)
        for column, margin in gate.slices.items()
        if slices is not None
        for value, rows in slices[column].value_counts().sort_index().items()
        if rows >= gate.min_slice_rows
    ]
    results = []
    for column, value, margin in named:
        assert slices is not None
        rows = (slices[column] == value).to_numpy()
        part = np.asarray(truth)[rows]
        a, b = new.take(rows), old.take(rows)
        level = 1 - 0.05 / len(named)
        diff = _gain(gate.metric, part, a, b, weights[:, rows], level=level)
        before = float(metrics.measure(gate.metric, part, b)[0])
        after = float(metrics.measure(gate.metric, part, a)[0])
        is_harmed = diff.value < -margin and diff.high < 0
        results.append(SliceResult(column, str(value), int(rows.sum()), after, before, diff, margin, is_harmed))
    return tuple(results)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value
