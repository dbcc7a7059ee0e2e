"""From rows to a model: the split by time, the same model from the same rows, and what it weighs."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trimtab import sample_rows
from trimtab.config.params import Params, ParamsError
from trimtab.data import schema
from trimtab.data.periods import Period
from trimtab.evaluation import monitoring
from trimtab.model import candidate, training
from trimtab.model.release import model_digest
from trimtab.model.scoring import Scorer
from trimtab.model.training import Candidate, NotEnoughData, Split

YEAR = sample_rows.rows(800, days=181)
OURS = ["hist_gradient_boosting", "random_forest", "model.py"]
ESTIMATORS = {
    "binary": [*OURS, "logistic_regression", "sklearn.naive_bayes.GaussianNB"],
    "multiclass": [*OURS, "logistic_regression", "sklearn.tree.DecisionTreeClassifier"],
    "regression": [*OURS, "ridge", "sklearn.tree.DecisionTreeRegressor"],
}
OPTIONS = {"hist_gradient_boosting": {"max_iter": 10}, "random_forest": {"n_estimators": 5}, "model.py": {"depth": 3}}
OWN = """
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
def model(params, seed):
    return {kind}(max_depth=params["depth"], random_state=seed)
"""


def month(label: str) -> Period:
    return Period.parse(label, "month")


def project(task: str, model: str, **train: Any) -> Params:
    return sample_rows.params(
        project={"task": task}, gate={"metric": sample_rows.METRIC[task]},
        train={"holdout": "10d", "model": model, "params": OPTIONS.get(model, {}), **train},
    )  # fmt: skip


def fitted(params: Params, rows: pd.DataFrame, folder: Path) -> tuple[Candidate, Split]:
    parts = training.split(rows, params, month("2013-02"))
    return training.fit_candidate(params, schema.infer_schema(rows, params), parts, folder), parts


@pytest.fixture
def own_code(tmp_path: Path) -> Path:
    return tmp_path


@settings(max_examples=60, deadline=None)
@given(
    window=st.just("all") | st.integers(1, 5),
    holdout=st.integers(1, 4) | st.integers(1, 400).map(lambda h: f"{h}h"),
    as_of=st.integers(1, 6),
    unlabelled=st.sets(st.integers(0, len(YEAR) - 1), max_size=300),
    seed=st.integers(0, 99),
)
def test_a_split_is_by_time_and_shares_no_row(
    window: int | str, holdout: int | str, as_of: int, unlabelled: set[int], seed: int
) -> None:
    try:
        params = sample_rows.params(train={"window": window, "holdout": holdout}, period={"first_train": "2013-12"})
    except ValueError:
        return  # impossible windows are refused before
    rows = YEAR.assign(late=YEAR["late"].where(~YEAR.index.isin(unlabelled))).sample(frac=1, random_state=seed)
    newest = month(f"2013-{as_of:02d}")
    try:
        parts = training.split(rows, params, newest)
    except NotEnoughData:
        return
    first = newest.shift(1 - window) if isinstance(window, int) else month("2013-01")
    low, high = (pd.Timestamp(t).tz_localize(None) for t in (first.start, newest.end))
    assert low <= parts.train["at"].min() <= parts.train["at"].max() < parts.cut
    assert parts.cut <= parts.holdout["at"].min() <= parts.holdout["at"].max() < high
    in_window = rows[rows["late"].notna() & (rows["at"] >= low) & (rows["at"] < high)]
    assert sorted([*parts.train["row"], *parts.holdout["row"]]) == sorted(in_window["row"])


@pytest.mark.parametrize(
    ("holdout", "cut"), [(1, "2013-03-01"), (2, "2013-02-01"), ("7d", "2013-03-25"), ("36h", "2013-03-30 12:00")]
)
def test_the_holdout_is_the_newest_part(holdout: int | str, cut: str) -> None:
    params = sample_rows.params(train={"holdout": holdout}, period={"first_train": "2013-12"})
    assert training.holdout_start(params, month("2013-03")) == pd.Timestamp(cut)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (YEAR[YEAR["at"] < "2013-06-01"], "to judge on between 2013-06-01"),
        (YEAR[YEAR["at"] >= "2013-06-01"], "to train on between 2013-01-01"),
        (YEAR.assign(late=np.nan), "to train on"),
    ],
    ids=["nothing new", "nothing old", "no label"],
)
def test_a_window_without_rows_says_which_and_what_to_do(rows: pd.DataFrame, says: str) -> None:
    with pytest.raises(NotEnoughData, match=f"no labelled rows {says}.*ingest earlier periods, or change train.window"):
        training.split(rows, sample_rows.params(), month("2013-06"))


@pytest.mark.parametrize(
    ("task", "model"), [(t, m) for t, models in ESTIMATORS.items() for m in models], ids=lambda v: v
)
def test_every_kind_of_estimator_learns_twice_the_same_and_says_what_matters(
    task: str, model: str, tmp_path: Path
) -> None:
    kind = "DecisionTreeRegressor" if task == "regression" else "DecisionTreeClassifier"
    (tmp_path / "model.py").write_text(OWN.format(kind=kind))
    params, rows = project(task, model), sample_rows.rows(500, task=task)
    rows = rows.assign(place=rows["place"].where(rows.index % 7 > 0), noise=rows["noise"].where(rows.index % 5 > 0))
    if model == "sklearn.tree.DecisionTreeClassifier":
        rows = rows.assign(place=rows["place"].where(rows.index < 400, "new"))
    (one, parts), (two, _) = (fitted(params, rows.sample(frac=1, random_state=i), tmp_path) for i in (1, 2))
    assert model_digest(BytesIO(one.content)) == model_digest(BytesIO(two.content))
    first, second = one.scorer.score(parts.holdout), two.scorer.score(parts.holdout)
    assert first.prediction.tobytes() == second.prediction.tobytes()
    assert first.labels == second.labels
    assert one.importances == two.importances
    assert sum(one.importances.values()) == pytest.approx(1.0)
    assert max(one.importances, key=lambda n: one.importances[n]) == "strong"
    assert one.metrics[params.gate.metric] > 0.6


def test_another_seed_makes_another_forest(tmp_path: Path) -> None:
    one, two = (fitted(project("binary", "random_forest", seed=s), sample_rows.rows(300), tmp_path)[0] for s in (1, 2))
    assert model_digest(BytesIO(one.content)) != model_digest(BytesIO(two.content))


@pytest.mark.parametrize(
    ("task", "model", "options", "says"),
    [
        (
            "binary",
            "catboost",
            {},
            "train.model catboost is unknown here: use hist_gradient_boosting, logistic_regression",
        ),
        ("binary", "ridge", {}, "train.model ridge is unknown here"),
        ("regression", "logistic_regression", {}, "use hist_gradient_boosting, random_forest, ridge"),
        ("binary", "os.system", {}, "unknown here"),
        ("binary", "sklearn.ensemble.Nothing", {}, "Nothing"),
        ("binary", "sklearn.nowhere.Forest", {}, "nowhere"),
        ("binary", "random_forest", {"trees": 3}, "trees"),
        ("binary", "random_forest", {"random_state": 3}, "train.seed"),
        ("binary", "sklearn.linear_model.Ridge", {}, "does not fit a binary task"),
        ("regression", "sklearn.ensemble.RandomForestClassifier", {}, "does not fit a regression task"),
        ("binary", "sklearn.metrics.roc_auc_score", {}, "sklearn.metrics.roc_auc_score"),
        ("binary", "model.py", {}, "model.py does not exist"),
    ],
)
def test_an_estimator_that_cannot_be_had_is_named(
    task: str, model: str, options: dict[str, Any], says: str, tmp_path: Path
) -> None:
    params = project(task, model, params=options)
    with pytest.raises(ParamsError, match=says.replace(".", r"\.")):
        fitted(params, sample_rows.rows(200, task=task), tmp_path)


def test_options_out_of_range_are_told_as_params(tmp_path: Path) -> None:
    params = project("binary", "hist_gradient_boosting", params={"max_iter": -3})
    with pytest.raises(ParamsError, match="max_iter"):
        fitted(params, sample_rows.rows(200), tmp_path)


def test_own_code_that_gives_no_estimator_is_told(tmp_path: Path) -> None:
    params = project("binary", "model.py")
    for text in ("", "def model(params, seed):\n    return None\n", "def model():\n    pass\n", "def model(:\n"):
        (tmp_path / "model.py").write_text(text)
        with pytest.raises(ParamsError, match=r"model\.py"):
            fitted(params, sample_rows.rows(200), tmp_path)


def test_one_class_only_is_nothing_to_learn_from_or_to_judge_on(tmp_path: Path) -> None:
    rows = sample_rows.rows(400)
    with pytest.raises(NotEnoughData, match="every row to train on has the same late"):
        fitted(project("binary", "hist_gradient_boosting"), rows.assign(late=1.0), tmp_path)
    newest = rows["at"] >= "2013-02-15"
    with pytest.raises(NotEnoughData, match="roc_auc is not defined on the"):
        fitted(
            project("binary", "hist_gradient_boosting"), rows.assign(late=rows["late"].where(~newest, 1.0)), tmp_path
        )


def test_a_target_that_is_not_binary_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="late is not binary: it has"):
        fitted(project("binary", "ridge"), sample_rows.rows(200).assign(late=3.0), tmp_path)


def test_when_nothing_matters_every_column_weighs_the_same(tmp_path: Path) -> None:
    rows = sample_rows.rows(400).assign(strong=1.0, noise=2.0, place="here")
    made, _ = fitted(project("binary", "hist_gradient_boosting"), rows, tmp_path)
    assert made.importances == {name: pytest.approx(1 / 3) for name in ("strong", "noise", "place")}


@pytest.mark.parametrize("task", ESTIMATORS)
def test_the_paper_and_its_files_say_what_the_model_does(task: str, tmp_path: Path) -> None:
    params = project(task, "hist_gradient_boosting")
    made, parts = fitted(params, sample_rows.rows(500, task=task), tmp_path)
    record, files = candidate.build_artifacts(
        made, parts, params, month("2013-02"), dataset="d1.dir", lineage={"git": "abc"}
    )
    assert candidate.CandidateRecord.model_validate_json(files[candidate.CANDIDATE_FILE]) == record
    assert Params.model_validate(record.params).train == params.train
    assert record.model_digest == model_digest(BytesIO(files["model.skops"]))
    assert pd.Timestamp(record.cut) == parts.cut
    reference = pd.read_parquet(BytesIO(files["reference.parquet"]))
    assert list(reference) == ["strong", "noise", "place", "late", "prediction"]
    assert len(reference) == len(parts.train)
    profile = candidate.Profile.model_validate_json(files[candidate.PROFILE_FILE])
    assert profile.promised == made.metrics[params.gate.metric]
    page = candidate.model_card(record, name="small", version=3, verdict="first model")
    assert "# small version 3" in page
    assert record.model_digest in page
    assert "first model" in page


@pytest.mark.parametrize("column", ["noise", "place"])
@pytest.mark.parametrize(("task", "model"), [(task, model) for task in ESTIMATORS for model in ESTIMATORS[task]])
def test_a_feature_without_values_is_left_out_and_back_when_it_has_some(
    task: str, model: str, column: str, own_code: Path
) -> None:
    """A number that was missing altogether ended the default model's training."""
    (own_code / "model.py").write_text(OWN.format(kind="DecisionTree" + kind_of(task)))
    params, rows = project(task, model), sample_rows.rows(400, task=task)
    missing = rows.assign(**{column: rows[column].where(rows["at"] >= "2013-02-25")})
    made, parts = fitted(params, missing, own_code)
    assert made.left_out == (column,)
    assert made.importances[column] == 0
    record, _ = candidate.build_artifacts(made, parts, params, month("2013-02"), dataset="d", lineage={})
    assert f"no row to train on has a value: {column}" in candidate.model_card(record, name="m", version=1, verdict="v")
    with_values, without = made.scorer.score(rows), made.scorer.score(missing)
    assert np.array_equal(with_values.prediction, without.prediction)
    again, _ = fitted(params, rows, own_code)
    assert again.left_out == ()


def kind_of(task: str) -> str:
    return "Regressor" if task == "regression" else "Classifier"


def test_rows_without_any_value_are_not_learned_from(own_code: Path) -> None:
    rows = sample_rows.rows(400).assign(strong=np.nan, noise=np.nan, place=None)
    with pytest.raises(NotEnoughData, match="no feature has a value"):
        fitted(sample_rows.params(train={"holdout": "10d"}), rows, own_code)


def test_importances_are_the_same_in_batches_which_bound_their_memory(
    own_code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params, rows = project("multiclass", "random_forest"), sample_rows.rows(400, task="multiclass")
    made, parts = fitted(params, rows, own_code)
    sizes: list[int] = []

    def score_frame(table: pd.DataFrame) -> Any:
        sizes.append(table.size)
        return Scorer.score_frame(made.scorer, table)

    monkeypatch.setattr(made.scorer, "score_frame", score_frame)
    monkeypatch.setattr(training, "IMPORTANCE_CELLS", 1000)
    assert training.importances(made.scorer, parts.holdout, params) == made.importances
    assert len(sizes) > 2
    assert max(sizes) <= 1000


def test_the_reference_is_drawn_as_live_rows_are_with_labels_or_without(tmp_path: Path) -> None:
    params = project("binary", "logistic_regression")
    rows = sample_rows.rows(800)
    rows["late"] = rows["late"].where(rows.index % 5 > 0)  # a fifth of the rows gets no label, every month
    rows["strong"] = rows["strong"].where(rows["late"].notna())
    candidate, parts = fitted(params, rows, tmp_path)
    reference = training.reference_sample(candidate, parts, params)
    assert reference["late"].isna().mean() == pytest.approx(0.2, abs=0.03)
    gained, _ = monitoring.missing_and_unseen(
        reference, parts.seen, candidate.scorer.features, training.levels_of(parts, candidate.scorer.features)
    )
    assert all(abs(gain) < 0.02 for gain in gained.values())


def test_a_release_knows_every_level_of_its_window(tmp_path: Path) -> None:
    params = project("binary", "logistic_regression")
    rows = sample_rows.rows(800).assign(place=[f"l{i}" for i in range(800)])
    candidate, parts = fitted(params, rows, tmp_path)
    assert len(training.levels_of(parts, candidate.scorer.features)["place"]) == 800
