"""Measure how far a compiled predictor deviates from scikit-learn on the same model.

The rows compared are real ones and generated ones on which models and their compiled forms tend to differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from trimtab.data.arrays import Floats
from trimtab.data.features import Feature, assemble
from trimtab.model.scoring import Scorer
from trimtab.predictors.compile import Predictor
from trimtab.predictors.preprocessing import UNSEEN

TOLERANCE: Final = 1e-9
"""The largest deviation that counts as equal."""
HUGE: Final = (0.0, 1e9, -1e9, 1e300, -1e300, 5e-324)
_HARD_ROWS, _SMALL_BATCH = 2000, 16


def max_deviation(fast: Predictor, scorer: Scorer, columns: Mapping[str, Any], size: int) -> float:
    """The largest deviation of *fast* from scikit-learn over the *size* rows of *columns* and generated hard rows.

    Hard rows have everything missing, unseen texts, huge numbers, or values at and next to the trees' thresholds.
    The deviation is that of `difference`; it is infinite when *fast* raises. Raises ValueError when scikit-learn
    itself rejects the real rows.
    """
    worst = 0.0
    for given, (block, rows) in enumerate([(columns, size), *_hard(fast, scorer.features, columns, size)]):
        with np.errstate(all="ignore"):
            try:
                wanted = scorer.predict_sklearn(assemble(block, scorer.features, size=rows))
            except ValueError:  # some estimators reject infinite numbers
                if given == 0:
                    raise
                continue
            worst = max(worst, _gap(fast, scorer, block, rows, wanted))
    return worst


def _gap(fast: Predictor, scorer: Scorer, columns: Mapping[str, Any], size: int, wanted: Floats) -> float:
    """Compare all rows at once and in small batches, as predictors may treat few and many rows differently."""
    small = range(0, min(size, _HARD_ROWS), _SMALL_BATCH)
    pieces = [(i, {name: values[i : i + _SMALL_BATCH] for name, values in columns.items()}) for i in small]
    try:
        gaps = [difference(scorer.predict_fast(fast, columns, size), wanted)]
        for i, piece in pieces:
            own = wanted[i : i + _SMALL_BATCH]
            gaps.append(difference(scorer.predict_fast(fast, piece, len(own)), own))
    except Exception:  # noqa: BLE001 - a predictor that fails in any way is not used
        return float("inf")
    return max(gaps)


def difference(found: Floats, wanted: Floats) -> float:
    """The largest difference of two arrays of one shape, relative where *wanted* exceeds 1.

    Infinite when the shapes differ, or when only one of two values is a number.

    >>> difference(np.array([0.5, 110.0]), np.array([0.5, 100.0]))
    0.1
    """
    if found.shape != wanted.shape:
        return float("inf")
    with np.errstate(invalid="ignore", over="ignore"):
        gap = np.abs(found - wanted) / np.maximum(1.0, np.abs(wanted))
    same = (found == wanted) | (np.isnan(found) & np.isnan(wanted))
    gap = np.where(same, 0.0, np.where(np.isfinite(gap), gap, np.inf))
    return float(gap.max(initial=0.0))


def _hard(
    fast: Predictor, features: Sequence[Feature], columns: Mapping[str, Any], size: int
) -> list[tuple[dict[str, Any], int]]:
    """Blocks of hard rows, each with its size: see `max_deviation`."""
    draw = np.random.default_rng(0)
    numbers = [f.name for f in features if f.kind == "number"]
    texts = [f.name for f in features if f.kind == "category"]
    missing: dict[str, Any] = {**{n: np.full(1, np.nan) for n in numbers}, **{n: [None] for n in texts}}
    blocks: list[tuple[dict[str, Any], int]] = [(missing, 1)]
    for hard in (HUGE, [np.inf, -np.inf]):
        same = {n: np.array(hard) for n in numbers}
        blocks.append(({**same, **{n: [UNSEEN] * len(hard) for n in texts}}, len(hard)))
    picked = draw.integers(0, max(size, 1), _HARD_ROWS)
    mixed: dict[str, Any] = {}
    thresholds = fast.split_points()
    for name in numbers:
        around = thresholds.get(name, np.empty(0))
        pool = np.concatenate([around, np.nextafter(around, -np.inf), np.nextafter(around, np.inf), [np.nan, 0.0]])
        own = np.asarray(columns[name], dtype=np.float64)[picked] if size else np.full(_HARD_ROWS, np.nan)
        mixed[name] = np.where(draw.random(_HARD_ROWS) < 0.7, draw.choice(pool, _HARD_ROWS), own)
    for name in texts:
        pool_of_texts = np.array([*dict.fromkeys(columns[name]), None, UNSEEN], dtype=object)
        mixed[name] = draw.choice(pool_of_texts, _HARD_ROWS).tolist()
    return [*blocks, (mixed, _HARD_ROWS)]
