"""The fast way to ask a model: what a fitted pipeline of ours computes, without scikit-learn's overhead, and the proof
that it is the same. Which way a release goes is recorded in its bundle and followed by `stores.releases.backend`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from trimtab.data.arrays import Floats
from trimtab.predictors import link_functions
from trimtab.predictors.preprocessing import UNSEEN, NotCompilable, ordinal_columns

if TYPE_CHECKING:
    from trimtab.data.features import Feature
    from trimtab.model.scoring import Scorer

TOLERANCE = 1e-9
SCIKIT_LEARN = "scikit-learn"


class Predictor(Protocol):
    """A model's answers from clean columns. Safe to call from many threads."""

    route: str

    def predict(self, columns: Mapping[str, Any], size: int) -> Floats:
        """For *size* rows, as `features.assemble` takes them: the value of a regression or the probability of the
        second of two classes, shape (n,); probabilities of more classes, shape (n, classes), in the model's order."""
        ...

    def edges(self) -> dict[str, Floats]:
        """For numbers, the values at which the model changes its mind."""
        ...


def compile_pipeline(model: Any, features: Sequence[Feature]) -> Predictor:
    """The fast way to ask *model*, a fitted pipeline. Raises NotCompilable, which says why there is none."""
    if type(model).__name__ != "Pipeline" or len(model.steps) != 2:
        raise NotCompilable(f"a {type(model).__name__} is not a pipeline of preparation and estimator")
    prepare, estimator = model[0], model[-1]
    try:
        match type(estimator).__name__:
            case "HistGradientBoostingClassifier" | "HistGradientBoostingRegressor":
                from trimtab.predictors.tree_tables import TreeTables

                return TreeTables(estimator, ordinal_columns(prepare, features), _link(estimator))
            case "LogisticRegression" | "Ridge" | "LinearRegression" | "Lasso" | "ElasticNet":
                from trimtab.predictors.dense import LinearPredictor, dense_blocks

                return LinearPredictor(estimator, dense_blocks(prepare, features), _link(estimator))
            case name if name.startswith(("RandomForest", "ExtraTrees", "GradientBoosting")):
                from trimtab.predictors.dense import ForestPredictor, dense_blocks

                link = _link(estimator) if name.startswith("Gradient") else None
                return ForestPredictor(estimator, dense_blocks(prepare, features), link)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise NotCompilable(f"not fitted in the way that is known here: {type(error).__name__}: {error}") from error
    raise NotCompilable(f"there is no fast way to ask a {type(estimator).__name__}")


def _link(estimator: Any) -> link_functions.Link:
    if hasattr(estimator, "classes_"):
        return link_functions.logistic if len(estimator.classes_) == 2 else link_functions.softmax
    loss = getattr(estimator, "loss", "squared_error")
    if loss not in link_functions.REGRESSION:
        raise NotCompilable(f"the loss {loss} is not known here")
    return link_functions.REGRESSION[loss]


def max_deviation(fast: Predictor, scorer: Scorer, columns: Mapping[str, Any], size: int) -> float:
    """The largest difference between *fast* and scikit-learn, relative where numbers exceed 1, over *size* rows and
    rows made to be hard: everything missing, texts never seen, huge numbers, and values at and beside the trees'
    thresholds. Infinite when *fast* fails, or gives no number where scikit-learn gives one."""
    from trimtab.data.features import assemble

    worst = 0.0
    for given, (block, rows) in enumerate([(columns, size), *_hard(fast, scorer.features, columns, size)]):
        with np.errstate(all="ignore"):
            try:
                wanted = scorer.ask(assemble(block, scorer.features, size=rows))
            except ValueError:  # some estimators refuse infinite numbers
                if given == 0:
                    raise
                continue
            worst = max(worst, _gap(fast, scorer, block, rows, wanted))
    return worst


def _gap(fast: Predictor, scorer: Scorer, columns: Mapping[str, Any], size: int, wanted: Floats) -> float:
    """Asked for all rows at once, and for some at a time: few rows and many go different ways inside."""
    small = range(0, min(size, _HARD_ROWS), _FEW)
    pieces = [(i, {name: values[i : i + _FEW] for name, values in columns.items()}) for i in small]
    try:
        gaps = [difference(scorer.ask_compiled(fast, columns, size), wanted)]
        for i, piece in pieces:
            own = wanted[i : i + _FEW]
            gaps.append(difference(scorer.ask_compiled(fast, piece, len(own)), own))
    except Exception:  # noqa: BLE001 - a way that fails, however it does, is no way to go
        return float("inf")
    return max(gaps)


def difference(found: Floats, wanted: Floats) -> float:
    """The largest difference, relative where what is wanted exceeds 1; infinite when only one is a number."""
    if found.shape != wanted.shape:
        return float("inf")
    with np.errstate(invalid="ignore", over="ignore"):
        gap = np.abs(found - wanted) / np.maximum(1.0, np.abs(wanted))
    same = (found == wanted) | (np.isnan(found) & np.isnan(wanted))
    gap = np.where(same, 0.0, np.where(np.isfinite(gap), gap, np.inf))
    return float(gap.max(initial=0.0))


_HARD_ROWS, _FEW = 2000, 16
HUGE = (0.0, 1e9, -1e9, 1e300, -1e300, 5e-324)


def _hard(
    fast: Predictor, features: Sequence[Feature], columns: Mapping[str, Any], size: int
) -> list[tuple[dict[str, Any], int]]:
    """Blocks of rows that models and their copies tend to disagree on."""
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
    edges = fast.edges()
    for name in numbers:
        around = edges.get(name, np.empty(0))
        pool = np.concatenate([around, np.nextafter(around, -np.inf), np.nextafter(around, np.inf), [np.nan, 0.0]])
        own = np.asarray(columns[name], dtype=np.float64)[picked] if size else np.full(_HARD_ROWS, np.nan)
        mixed[name] = np.where(draw.random(_HARD_ROWS) < 0.7, draw.choice(pool, _HARD_ROWS), own)
    for name in texts:
        pool_of_texts = np.array([*dict.fromkeys(columns[name]), None, UNSEEN], dtype=object)
        mixed[name] = draw.choice(pool_of_texts, _HARD_ROWS).tolist()
    return [*blocks, (mixed, _HARD_ROWS)]
