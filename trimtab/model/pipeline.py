"""Build the unfitted pipeline: the estimator that ``train.model`` names, and the preprocessing that suits it."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trimtab.config.params import Params, ParamsError
from trimtab.data.features import Feature

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

ESTIMATORS: Mapping[tuple[str, bool], str] = {
    ("hist_gradient_boosting", True): "sklearn.ensemble.HistGradientBoostingClassifier",
    ("hist_gradient_boosting", False): "sklearn.ensemble.HistGradientBoostingRegressor",
    ("random_forest", True): "sklearn.ensemble.RandomForestClassifier",
    ("random_forest", False): "sklearn.ensemble.RandomForestRegressor",
    ("logistic_regression", True): "sklearn.linear_model.LogisticRegression",
    ("ridge", False): "sklearn.linear_model.Ridge",
}


SPARSE_BELOW = 0.1
"""The share of numbers that are not zero below which a sparse matrix takes much less memory, and no more time."""


def build_estimator(params: Params, project: Path) -> Any:
    """The unfitted estimator that ``train.model`` names: a key of ESTIMATORS, a scikit-learn path, or `model.py`.

    `model.py` in the project's folder has a function ``model(params, seed)`` that returns an estimator.
    Raises ParamsError when the name or its params are not valid for the task.
    """
    from sklearn.base import is_classifier, is_regressor

    name, options, task = params.train.model, dict(params.train.params), params.project.task
    made = _own(project, options, params.train.seed) if name == "model.py" else _named(params, name, options)
    fits = hasattr(made, "__sklearn_tags__") and (
        is_regressor(made) if task == "regression" else is_classifier(made) and hasattr(made, "predict_proba")
    )
    if not fits:
        wanted = "regressor" if task == "regression" else "classifier with predict_proba"
        raise ParamsError(f"train.model {name} gives a {type(made).__name__}, which does not fit a {task} task: "
                          f"it has to be a scikit-learn {wanted}")  # fmt: skip
    return made


def _own(project: Path, options: dict[str, Any], seed: int) -> Any:
    path = project / "model.py"
    spec = importlib.util.spec_from_file_location("project_model", path)
    if spec is None or spec.loader is None or not path.exists():
        raise ParamsError(f"train.model is model.py, but {path} does not exist")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        return module.model(options, seed)
    except Exception as error:
        raise ParamsError(f"{path} has to define model(params, seed): {type(error).__name__}: {error}") from error


def _named(params: Params, name: str, options: dict[str, Any]) -> Any:
    is_class = params.project.task != "regression"
    module_name, _, attribute = ESTIMATORS.get((name, is_class), name).rpartition(".")
    if not module_name.startswith("sklearn."):
        choices = sorted(known for known, kind in ESTIMATORS if kind == is_class)
        raise ParamsError(f"train.model {name} is unknown here: use {', '.join(choices)}, a sklearn path, or model.py")
    if "random_state" in options:
        raise ParamsError("train.params random_state: write it as train.seed, which seeds the whole training")
    try:
        kind = getattr(importlib.import_module(module_name), attribute)
        seeded = {"random_state": params.train.seed} if "random_state" in kind().get_params() else {}
        return kind(**seeded, **options)
    except (ImportError, AttributeError, TypeError) as error:
        raise ParamsError(f"train.model {name} with params {options}: {error}") from None


def build_pipeline(params: Params, features: tuple[Feature, ...], project: Path) -> Pipeline:
    """The unfitted pipeline: preprocessing that suits the estimator, then the estimator.

    HistGradientBoosting gets ordinal categories, in which an unseen one counts as missing. Other estimators get
    imputed and scaled numbers and one-hot categories, in which an unseen one counts as infrequent; as a sparse matrix
    where less than SPARSE_BELOW of it is not zero, if the estimator takes one. Raises ParamsError.
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

    model = build_estimator(params, project)
    number = [f.name for f in features if f.kind == "number"]
    category = [f.name for f in features if f.kind == "category"]
    if type(model).__name__.startswith("HistGradientBoosting"):
        encode = OrdinalEncoder(
            handle_unknown="use_encoded_value", unknown_value=np.nan, encoded_missing_value=np.nan,
            max_categories=model.max_bins,
        )  # fmt: skip
        model.set_params(categorical_features=[len(number) + i for i in range(len(category))] or None)
        prepare = ColumnTransformer([("number", "passthrough", number), ("category", encode, category)])
    else:
        scale = make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler())
        takes_sparse = bool(model.__sklearn_tags__().input_tags.sparse)
        encode = OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=20, sparse_output=takes_sparse)
        prepare = ColumnTransformer(
            [("number", scale, number), ("category", encode, category)], sparse_threshold=SPARSE_BELOW
        )
    return make_pipeline(prepare, model)
