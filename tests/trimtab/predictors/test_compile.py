"""The fast way to ask a model gives scikit-learn's answers, for every model that has one; the others say why not."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from tests.trimtab import sample_rows
from trimtab.data.features import Feature, columns_of, frame
from trimtab.data.types import Columns
from trimtab.model import pipeline as pipelines
from trimtab.model.equivalence import TOLERANCE, difference, max_deviation
from trimtab.model.pipeline import build_pipeline
from trimtab.model.scoring import Scorer
from trimtab.predictors.compile import Predictor, compile_pipeline
from trimtab.predictors.preprocessing import NotCompilable
from trimtab.requests.parser import RowParser


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small models on two busy cores spend their time waiting for each other's threads."""
    with threadpool_limits(1):
        yield


FEATURES = (
    *(Feature(name=n, kind="number") for n in ("strong", "gappy", "constant", "empty", "counted")),
    *(Feature(name=n, kind="category") for n in ("many", "few", "unknown")),
)
HGB = "hist_gradient_boosting"
BOOSTING = "sklearn.ensemble.GradientBoosting"
MODELS: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "binary trees": ("binary", HGB, {"max_iter": 30}, "tables"),
    "multiclass trees": ("multiclass", HGB, {"max_iter": 12}, "tables"),
    "regression trees": ("regression", HGB, {"max_iter": 30}, "tables"),
    "one tree": ("binary", HGB, {"max_iter": 1}, "tables"),
    "one leaf": ("binary", HGB, {"max_iter": 2, "min_samples_leaf": 2500}, "tables"),
    "one leaf, multiclass": ("multiclass", HGB, {"max_iter": 2, "min_samples_leaf": 2500}, "tables"),
    "stumps": ("regression", HGB, {"max_iter": 20, "max_depth": 1}, "tables"),
    "sixty-four leaves": ("binary", HGB, {"max_iter": 10, "max_leaf_nodes": 64, "min_samples_leaf": 5}, "tables"),
    "early stopping": ("binary", HGB, {"max_iter": 60, "early_stopping": True, "n_iter_no_change": 3}, "tables"),
    "few bins": ("regression", HGB, {"max_iter": 10, "max_bins": 8}, "tables"),
    "poisson": ("regression", HGB, {"max_iter": 10, "loss": "poisson"}, "tables"),
    "gamma": ("regression", HGB, {"max_iter": 10, "loss": "gamma"}, "tables"),
    "median": ("regression", HGB, {"max_iter": 10, "loss": "quantile", "quantile": 0.5}, "tables"),
    "weights": ("multiclass", HGB, {"max_iter": 5, "class_weight": "balanced"}, "tables"),
    "logistic": ("binary", "logistic_regression", {}, "linear"),
    "logistic, multiclass": ("multiclass", "logistic_regression", {}, "linear"),
    "ridge": ("regression", "ridge", {}, "linear"),
    "forest": ("binary", "random_forest", {"n_estimators": 8}, "treelite"),
    "forest, multiclass": ("multiclass", "random_forest", {"n_estimators": 8, "max_depth": 6}, "treelite"),
    "forest, regression": ("regression", "random_forest", {"n_estimators": 8}, "treelite"),
    "extra trees": ("binary", "sklearn.ensemble.ExtraTreesClassifier", {"n_estimators": 8}, "treelite"),
    "boosting": ("binary", BOOSTING + "Classifier", {"n_estimators": 8}, "treelite"),
    "boosting, multiclass": ("multiclass", BOOSTING + "Classifier", {"n_estimators": 4}, "treelite"),
    "boosting, regression": ("regression", BOOSTING + "Regressor", {"n_estimators": 8}, "treelite"),
}  # fmt: skip


@cache
def table(size: int = 3000, seed: int = 0) -> pd.DataFrame:
    """Rows with what makes encodings hard: rare texts, a constant, columns of nothing, gaps."""
    random = np.random.default_rng(seed)
    strong = random.normal(size=size)
    return pd.DataFrame({
        "strong": strong,
        "gappy": np.where(random.random(size) < 0.3, np.nan, random.lognormal(3, 2, size).round(2)),
        "constant": np.full(size, 7.0),
        "empty": np.full(size, np.nan),
        "counted": random.integers(0, 5, size).astype(float),
        "many": pd.Series([f"c{int(v)}" for v in random.zipf(1.3, size) % 700], dtype="str"),
        "few": pd.Series(random.choice(["a", "b", "zürich"], size), dtype="str").mask(random.random(size) < 0.1),
        "unknown": pd.Series([None] * size, dtype="str"),
    })  # fmt: skip


def truth(task: str, rows: pd.DataFrame) -> Any:
    worth = rows["strong"] + (rows["few"] == "b") + rows["gappy"].fillna(50) / 100 + rows["many"].str.len() / 3
    if task == "regression":
        return worth.abs().to_numpy() + 0.1
    if task == "binary":
        return (worth > worth.median()).to_numpy().astype(int)
    return np.array(["low", "middle", "high"], dtype=object)[np.digitize(worth, np.quantile(worth, [0.3, 0.7]))]


@cache
def fitted(name: str) -> Scorer:
    task, model, options, _ = MODELS[name]
    params = sample_rows.params(project={"task": task}, gate={"metric": sample_rows.METRIC[task]},
                          train={"model": model, "params": {"max_iter": 20}})  # fmt: skip
    params = params.model_copy(update={"train": params.train.model_copy(update={"params": options})})
    pipeline = build_pipeline(params, FEATURES, Path())
    rows = table()
    if model == HGB:  # scikit-learn 1.9 cannot train these trees on a number that is missing everywhere
        rows = rows.assign(empty=rows["empty"].where(rows.index > 0, 1.0))
    pipeline.fit(frame(rows, FEATURES), truth(task, rows))
    classes = [] if task == "regression" else pipeline.classes_.tolist()
    return Scorer(pipeline, task=task, features=FEATURES, classes=classes)  # type: ignore[arg-type]


def fast(name: str) -> tuple[Scorer, Predictor]:
    scorer = fitted(name)
    return scorer, compile_pipeline(scorer.model, FEATURES)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore:Skipping features without")
@pytest.mark.parametrize("name", MODELS)
def test_the_fast_way_gives_the_answers_of_scikit_learn(name: str) -> None:
    scorer, way = fast(name)
    fresh = table(seed=1)
    worst = max_deviation(way, scorer, columns_of(fresh, FEATURES), len(fresh))
    assert (way.backend, worst <= TOLERANCE) == (MODELS[name][3], True), worst
    assert worst < 1e-11


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore:Skipping features without")
@pytest.mark.parametrize("name", [name for name, (_, model, *_) in MODELS.items() if model != HGB])
def test_a_model_of_a_sparse_matrix_has_the_same_fast_way(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipelines, "SPARSE_BELOW", 1.0)
    scorer = fitted.__wrapped__(name)
    assert scorer.model[0].sparse_output_
    way, fresh = compile_pipeline(scorer.model, FEATURES), table(6000, seed=1)
    assert max_deviation(way, scorer, columns_of(fresh, FEATURES), len(fresh)) < 1e-11


@pytest.mark.parametrize(
    ("model", "is_sparse"),
    [("logistic_regression", True), ("random_forest", True), ("sklearn.naive_bayes.GaussianNB", False)],
)
def test_many_categories_make_a_sparse_matrix_where_the_model_takes_one(model: str, is_sparse: bool) -> None:
    """55,000 rows with 1,500 categories took 1.4 GB."""
    random = np.random.default_rng(0)
    features = (Feature(name="x", kind="number"), Feature(name="c", kind="category"))
    rows = pd.DataFrame({"x": random.normal(size=20_000), "c": [f"v{i}" for i in random.integers(0, 700, 20_000)]})
    options = {"n_estimators": 2, "max_depth": 5} if model == "random_forest" else {}
    params = sample_rows.params(train={"model": model, "params": options})
    made = build_pipeline(params, features, Path())
    tracemalloc.start()
    made.fit(frame(rows, features), (rows["x"] > 0).astype(int))
    peak_mb = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    width = made[-1].n_features_in_
    assert width > 400
    assert made[0].sparse_output_ == is_sparse
    assert (peak_mb < 0.5 * 20_000 * width * 8 / 1e6) == is_sparse


numbers = st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False), st.integers(-5, 60))
texts = st.one_of(st.none(), st.sampled_from(["a", "b", "zürich", "c1", "c2", "c699", "c333", ""]), st.text(max_size=4))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                **dict.fromkeys(("strong", "gappy", "constant", "empty", "counted"), numbers),
                **dict.fromkeys(("many", "few", "unknown"), texts),
            },
        ),
        min_size=1,
        max_size=60,
    )
)
def test_any_row_that_a_client_may_send_is_answered_as_by_scikit_learn(sent: list[dict[str, Any]]) -> None:
    rows = RowParser(FEATURES, Columns(time="at", id="row", target="late")).read(sent, now_us=0)
    for name in ("binary trees", "multiclass trees"):
        scorer, way = fast(name)
        assert (
            difference(scorer.predict_fast(way, rows.columns, rows.size), scorer.predict_sklearn(rows.frame()))
            <= TOLERANCE
        )


@pytest.mark.parametrize("size", [1, 2, 17, 100, 2999])
@pytest.mark.parametrize(
    "name", ["binary trees", "multiclass trees", "sixty-four leaves", "forest", "forest, regression", "logistic"]
)
def test_rows_are_answered_alike_whatever_their_number(name: str, size: int) -> None:
    """Few rows and many take different turns inside."""
    scorer, way = fast(name)
    rows = table(seed=2).head(size)
    want = scorer.predict_sklearn(frame(rows, FEATURES))
    assert difference(scorer.predict_fast(way, columns_of(rows, FEATURES), size), want) <= TOLERANCE


def test_classes_come_in_the_order_of_the_manifest() -> None:
    """The positive class is the manifest's last one, not the model's."""
    for name in ("binary trees", "multiclass trees"):
        scorer, way = fast(name)
        turned = Scorer(scorer.model, task=scorer.task, features=FEATURES, classes=scorer.classes[::-1])
        columns = columns_of(table(seed=3), FEATURES)
        want = turned.predict_sklearn(frame(table(seed=3), FEATURES))
        assert difference(turned.predict_fast(way, columns, len(table())), want) <= TOLERANCE


@pytest.mark.parametrize("name", ["binary trees", "forest", "logistic"])
def test_many_threads_may_ask_at_once(name: str) -> None:
    _, way = fast(name)
    columns, size = columns_of(table(seed=4), FEATURES), len(table())
    want = way.predict(columns, size)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: way.predict(columns, size), range(24)))
    assert all(np.array_equal(want, answer) for answer in found)


def test_a_scorer_with_a_fast_way_answers_in_the_same_form() -> None:
    for name in ("binary trees", "multiclass trees", "regression trees"):
        plain, way = fast(name)
        quick = Scorer(plain.model, task=plain.task, features=FEATURES, classes=plain.classes, fast=way)
        sent = [{"strong": 0.5, "few": "b"}, {"many": "c1", "gappy": 3}]
        rows = RowParser(FEATURES, Columns(time="at", id="row", target="late")).read(sent, now_us=0)
        assert (plain.backend, quick.backend) == ("scikit-learn", "tables")
        for one, other in zip(plain.score_rows(rows).answers(), quick.score_rows(rows).answers(), strict=True):
            assert one.keys() == other.keys()
            assert one.get("label") == other.get("label")
            assert one.get("probabilities") == pytest.approx(other.get("probabilities"), abs=1e-12)


class Off:
    """A fast way that is wrong by a little in one row."""

    def __init__(self, way: Predictor, by: float) -> None:
        self.backend, self._way, self._by = way.backend, way, by

    def predict(self, columns: Any, size: int) -> Any:
        found = self._way.predict(columns, size).copy()
        found[size // 2] += self._by
        return found

    def split_points(self) -> Any:
        return self._way.split_points()


@pytest.mark.parametrize("by", [1e-6, -0.3, float("nan"), float("inf")])
def test_a_way_that_is_wrong_in_one_row_is_found_out(by: float) -> None:
    scorer, way = fast("binary trees")
    rows = table(seed=1)
    assert max_deviation(Off(way, by), scorer, columns_of(rows, FEATURES), len(rows)) > TOLERANCE


@pytest.mark.parametrize("most", [1, 16, 400], ids=lambda n: f"{n} rows")
def test_a_way_that_fails_or_errs_for_some_numbers_of_rows_is_found_out(most: int) -> None:
    scorer, way = fast("binary trees")
    columns = columns_of(table(seed=1), FEATURES)

    class Failing:
        backend = way.backend
        split_points = staticmethod(way.split_points)

        def predict(self, columns: Any, size: int) -> Any:
            if size == most:
                raise IndexError
            return way.predict(columns, size)

    class Erring(Failing):
        def predict(self, columns: Any, size: int) -> Any:
            return way.predict(columns, size) + 1e-3 * (size == most)

    rows = {name: values[:400] for name, values in columns.items()}
    assert max_deviation(way, scorer, rows, 400) <= TOLERANCE
    assert max_deviation(Failing(), scorer, rows, 400) == float("inf")
    assert max_deviation(Erring(), scorer, rows, 400) > TOLERANCE


def test_the_check_looks_where_trees_change_their_minds() -> None:
    """Off by one at a threshold shows in no usual row, since hardly any lies exactly on it."""
    scorer, way = fast("binary trees")

    class Strict:
        backend = way.backend

        def predict(self, columns: Any, size: int) -> Any:
            """Sends what equals a threshold to the right, as a `<` in place of a `<=` would."""
            return way.predict({**columns, "strong": np.nextafter(columns["strong"], np.inf)}, size)

        def split_points(self) -> Any:
            return way.split_points()

    rows = table(seed=1)
    columns = columns_of(rows, FEATURES)
    assert (
        difference(scorer.predict_fast(Strict(), columns, len(rows)), scorer.predict_sklearn(frame(rows, FEATURES)))
        <= TOLERANCE
    )
    assert max_deviation(Strict(), scorer, columns, len(rows)) > TOLERANCE


def test_what_has_no_fast_way_says_why() -> None:
    from sklearn.naive_bayes import GaussianNB
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import QuantileTransformer

    trees = fitted("binary trees").model
    with pytest.raises(NotCompilable, match="GaussianNB"):
        compile_pipeline(make_pipeline(trees[0], GaussianNB()), FEATURES)
    with pytest.raises(NotCompilable, match="not a pipeline"):
        compile_pipeline(trees[-1], FEATURES)
    with pytest.raises(NotCompilable, match="QuantileTransformer"):
        compile_pipeline(make_pipeline(QuantileTransformer(), trees[-1]), FEATURES)
    with pytest.raises(NotCompilable, match="features"):
        compile_pipeline(trees, [replace_name(f) for f in FEATURES])
    with pytest.raises(NotCompilable, match="columns"):
        compile_pipeline(make_pipeline(fitted("ridge").model[0], trees[-1]), FEATURES[:2])


def replace_name(feature: Feature) -> Feature:
    return feature.model_copy(update={"name": f"other {feature.name}"})


def test_trees_with_too_many_leaves_have_no_tables() -> None:
    from sklearn.base import clone
    from sklearn.pipeline import make_pipeline

    scorer = fitted("regression trees")
    rows = frame(table().assign(empty=0.0), FEATURES)
    wide = clone(scorer.model[-1]).set_params(max_iter=1, max_leaf_nodes=200, min_samples_leaf=1)
    wide.fit(scorer.model[0].transform(rows), truth("regression", table()))
    with pytest.raises(NotCompilable, match="leaves"):
        compile_pipeline(make_pipeline(scorer.model[0], wide), FEATURES)
