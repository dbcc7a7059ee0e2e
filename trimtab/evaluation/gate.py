"""The gate: whether a candidate may be released. A candidate must reach an absolute floor, must not be worse than the
champion by more than a margin, and not worse in any named slice by more than that slice's margin.

The gate cannot be turned off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from trimtab.config.sections import GateConfig
from trimtab.data.arrays import Floats, Labels
from trimtab.evaluation import metrics
from trimtab.evaluation.metrics import Interval, WeightedMetric
from trimtab.model.scoring import Scores

SEED = 20130101
Index = np.ndarray[Any, np.dtype[np.intp]]


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
    name, rows = gate.metric, len(truth)
    whole = _part(name, truth, candidate, champion, None)
    value = whole.values[0]
    floor_kept = value <= gate.min if name in metrics.LOWER_IS_BETTER else value >= gate.min
    if champion is None or not floor_kept:
        ((replicates, _),) = _bootstrap(gate, rows, [whole])
        if not math.isfinite(value):
            reason = f"{name} is not defined on these {rows:,} rows: the candidate, or its labels, cannot be judged"
        elif not floor_kept:
            side = "above" if name in metrics.LOWER_IS_BETTER else "below"
            reason = f"{name} {value:.4f} is {side} the floor of {gate.min:g}"
        else:
            reason = f"first model: {name} {value:.4f} keeps the floor of {gate.min:g}"
        return GateResult(floor_kept, reason, name, rows, metrics.interval(replicates, value), None, None)

    named = _named_slices(gate, slices)
    parts = [whole, *(_part(name, truth, candidate, champion, index) for _, _, index in named)]
    (news, olds), *of_slices = _bootstrap(gate, rows, parts)
    new, old = metrics.interval(news, value), metrics.interval(olds, whole.values[1])
    diff = _gain(name, whole, news, olds)
    results = tuple(
        _slice_result(gate, column, category, part, *replicates, level=1 - 0.05 / len(named))
        for (column, category, _), part, replicates in zip(named, parts[1:], of_slices, strict=True)
    )
    harmed = [s for s in results if s.harmed]
    compared = f"{name} {new.value:.4f} against the champion's {old.value:.4f} on the same {rows:,} rows"
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
    return GateResult(passed, reason, name, rows, new, old, diff, results)


@dataclass(frozen=True)
class _Part:
    """The metric of the candidate and, if there is one, the champion on some rows: all (*index* is None), or a slice.
    *values* are both models' metric, nan for a champion that there is not."""

    index: Index | None
    rows: int
    models: tuple[WeightedMetric, ...]
    values: tuple[float, float]


def _part(name: str, truth: Labels, new: Scores, old: Scores | None, index: Index | None) -> _Part:
    labels = np.asarray(truth) if index is None else np.asarray(truth)[index]
    taken = [scores if index is None else scores.take(index) for scores in (new, old) if scores is not None]
    models = tuple(metrics.weighted(name, labels, scores) for scores in taken)
    once = np.ones((1, len(labels)))
    first, second, *_ = (*(float(model(once)[0]) for model in models), math.nan)
    return _Part(index, len(labels), models, (first, second))


def _bootstrap(gate: GateConfig, rows: int, parts: Sequence[_Part]) -> list[tuple[Floats, Floats]]:
    """For each part, the replicates of the candidate's and of the champion's metric, each of shape (resamples,).

    Few resamples are in memory at a time, and all parts and models are measured with the same ones.
    """
    found = np.full((len(parts), 2, gate.resamples), np.nan)
    first = 0
    for weights in metrics.resampling(rows, resamples=gate.resamples, seed=SEED):
        for part, replicates in zip(parts, found, strict=True):
            own = weights if part.index is None else weights[:, part.index]
            for model, measured in zip(part.models, replicates, strict=False):
                measured[first : first + len(weights)] = model(own)
        first += len(weights)
    return [(new, old) for new, old in found]


def _gain(name: str, part: _Part, news: Floats, olds: Floats, *, level: float = 0.95) -> Interval:
    value = metrics.gain(name, *(np.array([value]) for value in part.values))
    return metrics.interval(metrics.gain(name, news, olds), float(value[0]), level=level)


def _named_slices(gate: GateConfig, slices: pd.DataFrame | None) -> list[tuple[str, Any, Index]]:
    """Column, value and rows of each slice that is large enough to be judged."""
    return [
        (column, value, np.asarray(index))
        for column in gate.slices
        if slices is not None
        for value, index in slices.groupby(column, observed=True).indices.items()
        if len(index) >= gate.min_slice_rows
    ]


def _slice_result(
    gate: GateConfig, column: str, value: Any, part: _Part, news: Floats, olds: Floats, *, level: float
) -> SliceResult:
    gain, margin, (after, before) = _gain(gate.metric, part, news, olds, level=level), gate.slices[column], part.values
    is_harmed = gain.value < -margin and gain.high < 0
    return SliceResult(column, str(value), part.rows, after, before, gain, margin, is_harmed)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value
