"""Metrics are scikit-learn's, with weights and intervals."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from trimtab.evaluation import metrics
from trimtab.model.scoring import Scores

CLASSES = ("a", "b", "c")
seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(4, 80)


def binary(seed: int, size: int) -> tuple[np.ndarray[Any, Any], Scores]:
    """Predictions with many ties, and with 0 and 1 among them."""
    random = np.random.default_rng(seed)
    truth = random.permutation(np.arange(size) % 2)
    return truth, Scores("binary", random.integers(0, 8, size) / 7, (0, 1))


def multiclass(seed: int, size: int) -> tuple[np.ndarray[Any, Any], Scores]:
    random = np.random.default_rng(seed)
    shares = random.dirichlet([0.5] * 3, size)
    best = shares.argmax(axis=1)
    truth = random.permutation(np.array(CLASSES, dtype=object)[np.arange(size) % 3])
    return truth, Scores("multiclass", shares.max(axis=1), CLASSES, tuple(CLASSES[i] for i in best), shares)


def regression(seed: int, size: int) -> tuple[np.ndarray[Any, Any], Scores]:
    random = np.random.default_rng(seed)
    truth = random.normal(size=size) * 10.0 ** random.integers(-3, 4)
    return truth, Scores("regression", truth + random.normal(size=size))


def weights(seed: int, size: int) -> np.ndarray[Any, Any]:
    """Counts as the bootstrap draws them, each row of weights with something of everything."""
    counts = np.random.default_rng(seed).poisson(1.0, (3, size))
    return np.asarray(counts + np.array([[1.0], [1.0], [0.25]]))


CASES = {
    ("binary", "roc_auc"): lambda t, s, w: sk.roc_auc_score(t, s.prediction, sample_weight=w),
    ("binary", "log_loss"): lambda t, s, w: sk.log_loss(t, s.prediction, sample_weight=w, labels=[0, 1]),
    ("binary", "accuracy"): lambda t, s, w: sk.accuracy_score(t, s.prediction >= 0.5, sample_weight=w),
    ("multiclass", "log_loss"): lambda t, s, w: sk.log_loss([*t], s.probabilities, sample_weight=w, labels=[*CLASSES]),
    ("multiclass", "accuracy"): lambda t, s, w: sk.accuracy_score(list(t), list(s.labels), sample_weight=w),
    ("multiclass", "f1_macro"): lambda t, s, w: sk.f1_score(list(t), list(s.labels), sample_weight=w, average="macro"),
    ("regression", "rmse"): lambda t, s, w: sk.root_mean_squared_error(t, s.prediction, sample_weight=w),
    ("regression", "mae"): lambda t, s, w: sk.mean_absolute_error(t, s.prediction, sample_weight=w),
    ("regression", "r2"): lambda t, s, w: sk.r2_score(t, s.prediction, sample_weight=w),
}  # fmt: skip
MAKERS = {"binary": binary, "multiclass": multiclass, "regression": regression}


def test_every_metric_of_every_task_is_held_against_scikit_learn() -> None:
    assert set(CASES) == {(task, name) for task, names in metrics.TASK_METRICS.items() for name in names}


@pytest.mark.parametrize(("task", "name"), CASES, ids=lambda v: v)
@settings(max_examples=40, deadline=None)
@given(seed=seeds, size=sizes)
def test_a_metric_is_scikit_learns_weighted_or_not(task: str, name: str, seed: int, size: int) -> None:
    truth, scores = MAKERS[task](seed, size)
    weight = weights(seed, size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = [CASES[task, name](truth, scores, w) for w in (np.ones(size), *weight)]
    got = [*metrics.measure(name, truth, scores), *metrics.measure(name, truth, scores, weights=weight)]
    assert got == pytest.approx(expected, rel=1e-9, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(seed=seeds, size=sizes)
def test_a_weight_of_two_is_the_row_twice_and_a_weight_of_none_is_no_row(seed: int, size: int) -> None:
    for task, name in CASES:
        truth, scores = MAKERS[task](seed, size)
        counts = np.random.default_rng(seed).integers(0, 3, size)
        counts[:6] = np.maximum(counts[:6], 1)
        again = np.repeat(np.arange(size), counts)
        picked = Scores(
            scores.task, scores.prediction[again], scores.classes,
            None if scores.labels is None else tuple(scores.labels[i] for i in again),
            None if scores.probabilities is None else scores.probabilities[again],
        )  # fmt: skip
        weighted = metrics.measure(name, truth, scores, weights=counts[None, :].astype(float))[0]
        repeated = metrics.measure(name, truth[again], picked)[0]
        if name == "f1_macro" and len({*truth, *scores.labels}) != len({*truth[again], *picked.labels}):  # type: ignore[misc]
            continue  # a label that only weightless rows have still counts as a class, as in scikit-learn
        assert weighted == pytest.approx(repeated, nan_ok=True, rel=1e-9), name


@pytest.mark.parametrize(("task", "name"), CASES, ids=lambda v: v)
def test_predictions_or_labels_that_are_no_numbers_have_no_metric(task: str, name: str) -> None:
    truth, scores = MAKERS[task](3, 40)
    hole = scores.prediction.copy()
    hole[5] = math.nan
    assert np.isnan(
        metrics.measure(name, truth, Scores(scores.task, hole, scores.classes, scores.labels, scores.probabilities))
    ).all()
    missing = truth.astype(object)
    missing[5] = None
    assert np.isnan(metrics.measure(name, missing, scores, weights=np.ones((4, 40)))).tolist() == [True] * 4


def test_a_metric_that_is_not_defined_is_nan() -> None:
    one_class = Scores("binary", np.array([0.2, 0.7, 0.9]))
    assert np.isnan(metrics.measure("roc_auc", np.ones(3), one_class)).all()
    flat = Scores("regression", np.array([1.0, 2.0, 3.0]))
    assert np.isnan(metrics.measure("r2", np.full(3, 2.0), flat)).all()
    assert np.isnan(metrics.measure("rmse", np.ones(3), flat, weights=np.zeros((1, 3)))).all()


def test_a_label_that_the_model_never_met_costs_as_much_as_can_be() -> None:
    scores = Scores("multiclass", np.array([0.9]), CLASSES, ("a",), np.array([[0.9, 0.05, 0.05]]))
    assert metrics.measure("log_loss", np.array(["new"], dtype=object), scores)[0] > 30
    assert metrics.measure("accuracy", np.array(["new"], dtype=object), scores)[0] == 0


def test_nineteen_of_twenty_intervals_hold_the_true_value() -> None:
    """200 samples of a known truth: AUC of N(1, 1) against N(0, 1) is Phi(1 / sqrt 2) = 0.7602."""
    held = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        truth = np.arange(300) % 2
        scores = Scores("binary", random.normal(truth))
        replicates = metrics.measure("roc_auc", truth, scores, weights=drawn(300, resamples=200, seed=seed))
        found = metrics.interval(replicates, float(metrics.measure("roc_auc", truth, scores)[0]))
        held += found.low <= 0.7602 <= found.high
    assert 176 <= held <= 199


@given(st.lists(st.floats(-1e6, 1e6) | st.just(math.nan), max_size=40), st.floats(-1, 1) | st.just(math.nan))
def test_an_interval_is_ordered_or_unknown(replicates: list[float], value: float) -> None:
    found = metrics.interval(np.array(replicates, dtype=float), value)
    if math.isnan(value) or all(math.isnan(r) for r in replicates):
        assert math.isnan(found.low)
        assert math.isnan(found.high)
    else:
        assert found.low <= found.high


def drawn(units: int, **options: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.concatenate([*metrics.resampling(units, **options)])


def test_the_same_seed_draws_the_same_rows() -> None:
    one, other = (drawn(50, resamples=7, seed=s) for s in (1, 2))
    assert (one == drawn(50, resamples=7, seed=1)).all()
    assert (one != other).any()
    assert one.shape == (7, 50)


@given(st.integers(1, 60), st.integers(1, 40), st.integers(0, 400))
def test_the_weights_are_the_same_however_they_are_divided(units: int, resamples: int, rows: int) -> None:
    whole = drawn(units, resamples=resamples, seed=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "BATCH_CELLS", 100)
        batches = [*metrics.resampling(units, resamples=resamples, seed=3, rows=rows)]
    assert np.array_equal(np.concatenate(batches), whole)
    assert all(len(batch) == 1 or len(batch) * max(units, rows) <= 100 for batch in batches)


@pytest.mark.parametrize("name", sorted({name for _, name in CASES}))
def test_a_gain_is_positive_for_the_better_model(name: str) -> None:
    better, worse = (
        (np.array([0.1]), np.array([0.2])) if name in metrics.LOWER_IS_BETTER else (np.array([0.2]), np.array([0.1]))
    )
    assert metrics.gain(name, better, worse)[0] > 0 > metrics.gain(name, worse, better)[0]
