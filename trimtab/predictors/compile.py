"""Compile a fitted pipeline into a predictor that computes the same without scikit-learn's overhead.

`trimtab.model.equivalence` measures that it is the same; `stores.releases.backend` records which backend a release
uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from trimtab.data.arrays import Floats
from trimtab.predictors import link_functions
from trimtab.predictors.preprocessing import NotCompilable, ordinal_columns

if TYPE_CHECKING:
    from trimtab.data.features import Feature

SCIKIT_LEARN = "scikit-learn"


class Predictor(Protocol):
    """Predictions from clean columns. Safe to call from many threads. *backend* is its name in records and metrics."""

    backend: str

    def predict(self, columns: Mapping[str, Any], size: int) -> Floats:
        """Predictions for *size* rows, given as `features.assemble` takes them.

        Shape (size,) for regression (the value) and for two classes (the probability of the model's second class);
        shape (size, classes) for more classes, in the model's order.
        """
        ...

    def split_points(self) -> dict[str, Floats]:
        """For each numeric feature, the thresholds at which the prediction may jump; features without any may be left
        out."""
        ...


def compile_pipeline(model: Any, features: Sequence[Feature]) -> Predictor:
    """Compile *model*, a fitted pipeline of a ColumnTransformer and an estimator. Raises NotCompilable."""
    if type(model).__name__ != "Pipeline" or len(model.steps) != 2:
        raise NotCompilable(f"a {type(model).__name__} is not a pipeline of preprocessing and estimator")
    prepare, estimator = model[0], model[-1]
    try:
        match type(estimator).__name__:
            case "HistGradientBoostingClassifier" | "HistGradientBoostingRegressor":
                from trimtab.predictors.tree_tables import TreeTables

                return TreeTables(estimator, ordinal_columns(prepare, features), _link(estimator))
            case "LogisticRegression" | "Ridge" | "LinearRegression" | "Lasso" | "ElasticNet":
                from trimtab.predictors.dense_blocks import dense_blocks
                from trimtab.predictors.linear import LinearPredictor

                return LinearPredictor(estimator, dense_blocks(prepare, features), _link(estimator))
            case name if name.startswith(("RandomForest", "ExtraTrees", "GradientBoosting")):
                from trimtab.predictors.dense_blocks import dense_blocks
                from trimtab.predictors.forest import ForestPredictor

                link = _link(estimator) if name.startswith("Gradient") else None
                return ForestPredictor(estimator, dense_blocks(prepare, features), link)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise NotCompilable(f"not fitted in a supported way: {type(error).__name__}: {error}") from error
    raise NotCompilable(f"no predictor supports a {type(estimator).__name__}")


def _link(estimator: Any) -> link_functions.Link:
    if hasattr(estimator, "classes_"):
        return link_functions.logistic if len(estimator.classes_) == 2 else link_functions.softmax
    loss = getattr(estimator, "loss", "squared_error")
    if loss not in link_functions.REGRESSION:
        raise NotCompilable(f"the loss {loss} is not supported")
    return link_functions.REGRESSION[loss]
