"""Losses lie between 0 and 1, and their differences compare two models per row."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from trimtab.data.arrays import Floats
from trimtab.rollout import losses
from trimtab.rollout.config import LOSSES, Loss

CLASSES = ("a", "b", "c")
CASES: list[tuple[str, Loss]] = [(task, loss) for task, known in LOSSES.items() for loss in known]
seeds = st.integers(0, 2**32 - 1)


def rows(task: str, seed: int, size: int = 30) -> tuple[list[Any], Floats, Floats]:
    """Labels, and what two models said, some of it no number and some of it far out."""
    random = np.random.default_rng(seed)
    truth: list[Any]
    one: Floats
    other: Floats
    if task == "multiclass":
        truth = list(random.choice([*CLASSES, "never seen"], size))
        one, other = random.dirichlet([0.5] * 3, size), random.dirichlet([0.5] * 3, size)
    elif task == "binary":
        truth = random.integers(0, 2, size).tolist()
        one, other = random.random(size), random.integers(0, 2, size).astype(np.float64)
    else:
        truth = random.normal(size=size).tolist()
        one, other = random.normal(size=size) * 9, random.normal(size=size)
    one[::7] = np.nan
    other[::11] = np.inf
    return truth, one, other


@pytest.mark.parametrize(("task", "loss"), CASES, ids=lambda v: v)
@given(seed=seeds)
@settings(max_examples=25, deadline=None)
def test_differences_lie_in_range_and_turn_around_with_the_models(task: str, loss: Loss, seed: int) -> None:
    truth, one, other = rows(task, seed)
    there = losses.differences(loss, truth, one, other, classes=CLASSES, cap=2.0)
    back = losses.differences(loss, truth, other, one, classes=CLASSES, cap=2.0)
    assert np.isfinite(there).all()
    assert (np.abs(there) <= 1).all()
    assert (there == -back).all()


@pytest.mark.parametrize(("task", "loss"), CASES, ids=lambda v: v)
def test_a_prediction_that_is_no_number_loses_everything(task: str, loss: Loss) -> None:
    truth, one, _ = rows(task, 1)
    found = losses.losses(loss, truth, one, classes=CLASSES, cap=2.0)
    assert (found[::7] == 1).all()


@pytest.mark.parametrize(("task", "loss"), CASES, ids=lambda v: v)
def test_a_row_without_a_truth_is_evidence_for_neither(task: str, loss: Loss) -> None:
    truth, one, other = rows(task, 2)
    missing: list[Any] = [None, math.nan, *truth[2:]]
    found = losses.differences(loss, missing, one, other, classes=CLASSES, cap=2.0)
    assert np.isnan(found[:2]).all()
    assert (found[2:] == losses.differences(loss, truth, one, other, classes=CLASSES, cap=2.0)[2:]).all()


def test_the_binary_losses_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    truth, p = random.integers(0, 2, 200), random.uniform(0.01, 0.99, 200)
    assert losses.losses("brier", truth, p).mean() == pytest.approx(sk.brier_score_loss(truth, p))
    assert losses.losses("log", truth, p).mean() * math.log(1000) == pytest.approx(sk.log_loss(truth, p))


@pytest.mark.parametrize("loss", ["brier", "log"])
def test_two_classes_lose_as_much_as_one_probability(loss: Loss) -> None:
    truth, p = np.array([0, 1, 1, 0]), np.array([0.2, 0.9, 0.0, 1.0])
    both = np.column_stack([1 - p, p])
    assert losses.losses(loss, truth, both, classes=(0, 1)) == pytest.approx(losses.losses(loss, truth, p))


def test_a_label_that_no_model_knows_had_no_probability() -> None:
    p = np.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    assert losses.losses("brier", ["new", "new"], p, classes=CLASSES).tolist() == [0.75, 1.0]
    assert losses.losses("log", ["new", "new"], p, classes=CLASSES).tolist() == [1.0, 1.0]


def test_a_certain_error_costs_as_much_as_one_in_a_thousand() -> None:
    found = losses.losses("log", [1, 1, 0, 1], np.array([0.0, 0.0005, 0.9995, 1.0]))
    assert found.tolist() == pytest.approx([1.0, 1.0, 1.0, 0.0])


def test_an_error_of_the_cap_or_more_counts_as_one() -> None:
    truth, prediction = [0.0, 0.0, 0.0], np.array([1.0, 2.0, 9.0])
    assert losses.losses("absolute", truth, prediction, cap=2.0).tolist() == [0.5, 1.0, 1.0]
    assert losses.losses("squared", truth, prediction, cap=2.0).tolist() == [0.25, 1.0, 1.0]


@pytest.mark.parametrize("cap", [None, 0.0, math.nan])
def test_a_regression_needs_a_cap(cap: float | None) -> None:
    with pytest.raises(ValueError, match="cap"):
        losses.losses("squared", [1.0], np.array([1.0]), cap=cap)


def test_predictions_of_other_rows_or_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="2 labels and 1 predictions"):
        losses.losses("brier", [0, 1], np.array([0.5]))
    with pytest.raises(ValueError, match="2 probabilities for 3 classes"):
        losses.losses("brier", ["a"], np.array([[0.5, 0.5]]), classes=CLASSES)


def test_a_few_wild_rows_do_not_set_the_scale() -> None:
    random = np.random.default_rng(0)
    truth = random.normal(size=1000)
    prediction = truth + random.normal(size=1000)
    calm = losses.regression_cap(truth, prediction)
    prediction[:5] = 1e9
    prediction[5] = np.nan
    assert 2 < calm <= losses.regression_cap(truth, prediction) < 4


@pytest.mark.parametrize(
    ("truth", "prediction", "cap"),
    [([1.0, 2.0, 9.0], [1.0, 2.0, 9.0], 7.0), ([1.0, 1.0], [1.0, 1.0], 1.0), ([], [], 1.0)],
    ids=["the target's spread", "a constant target", "no rows"],
)
def test_a_champion_without_errors_still_gives_a_scale(truth: list[float], prediction: list[float], cap: float) -> None:
    assert losses.regression_cap(np.array(truth), np.array(prediction)) == pytest.approx(cap, rel=0.05)
