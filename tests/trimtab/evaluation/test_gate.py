"""The gate: no setting lets a worse model through."""

from __future__ import annotations

import json
import math
import tracemalloc
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trimtab.evaluation.test_metrics import CASES, CLASSES, MAKERS
from trimtab.config.sections import GateConfig
from trimtab.evaluation import gate, metrics
from trimtab.model.scoring import Scores

seeds = st.integers(0, 2**32 - 1)
ANY_FLOOR = {name: 1e9 if name in metrics.LOWER_IS_BETTER else -1e9 for _, name in CASES}


def rules(**changes: Any) -> GateConfig:
    return GateConfig(**{"metric": "roc_auc", "min": 0.0, "resamples": 50, "min_slice_rows": 30, **changes})


def graded(size: int, *, noise: float, seed: int = 0) -> tuple[np.ndarray[Any, Any], Scores]:
    """Labels, and probabilities that tell less of them the larger *noise* is."""
    truth = np.arange(size) % 2
    value = truth + np.random.default_rng(seed).normal(scale=noise, size=size)
    return truth, Scores("binary", 1 / (1 + np.exp(-value)), (0, 1))


def corrected(truth: np.ndarray[Any, Any], scores: Scores, share: float) -> Scores:
    """The same scores, but right in a *share* of the rows."""
    right = np.random.default_rng(7).random(len(truth)) < share
    if scores.probabilities is None or scores.labels is None:
        return Scores(scores.task, np.where(right, truth, scores.prediction), scores.classes)
    truly = np.eye(len(CLASSES))[[CLASSES.index(label) for label in truth]]
    probabilities = np.where(right[:, None], truly, scores.probabilities)
    labels = tuple(np.where(right, truth, np.array(scores.labels, dtype=object)))
    return Scores(scores.task, probabilities.max(axis=1), scores.classes, labels, probabilities)


@pytest.mark.parametrize(("task", "name"), CASES, ids=lambda v: v)
@settings(max_examples=25, deadline=None)
@given(
    seed=seeds,
    size=st.integers(12, 120),
    better=st.floats(0, 1),
    margin=st.floats(0, 2),
    slice_margin=st.none() | st.floats(0, 2),
    floored=st.booleans(),
)
def test_a_worse_model_is_never_let_through(
    task: str, name: str, seed: int, size: int, better: float, margin: float, slice_margin: float | None, floored: bool
) -> None:
    """Passing means: the floor is kept, the loss against the champion is within the margin, and no slice is harmed.

    Margins are multiples of what the candidate loses. The only slice holds all rows, so that it loses the same, with
    the same interval, but its margin is its own.
    """
    truth, candidate = MAKERS[task](seed, size)
    champion = corrected(truth, MAKERS[task](seed + 1, size)[1], better)
    new, old = (float(metrics.measure(name, truth, s)[0]) for s in (candidate, champion))
    lost = new - old if name in metrics.LOWER_IS_BETTER else old - new
    margin *= abs(lost)
    margins = {} if slice_margin is None else {"part": slice_margin * abs(lost)}
    floor = old if floored else ANY_FLOOR[name]
    wanted = rules(metric=name, min=floor, max_regression=margin, slices=margins)
    verdict = gate.evaluate_gate(wanted, truth, candidate, champion, slices=pd.DataFrame({"part": ["x"] * size}))
    keeps_floor = new <= floor if name in metrics.LOWER_IS_BETTER else new >= floor
    is_worse = verdict.gain is not None and verdict.gain.high < 0
    is_harmed = bool(margins) and size >= wanted.min_slice_rows and is_worse and lost > margins["part"]
    assert verdict.passed == (keeps_floor and lost <= margin and not is_harmed)
    assert verdict.reason


@pytest.mark.parametrize("slice_margin", [0.005, 0.3], ids=["narrower", "wider"])
def test_a_slice_is_held_to_its_own_margin_and_all_rows_to_theirs(slice_margin: float) -> None:
    """The candidate loses about 0.14 in ROC AUC, in the slice and as a whole."""
    (truth, worse), (_, champion) = graded(2000, noise=1.2, seed=1), graded(2000, noise=0.7, seed=2)
    slices = pd.DataFrame({"part": ["x"] * 2000})
    within, beyond = (
        gate.evaluate_gate(
            rules(max_regression=margin, slices={"part": slice_margin}), truth, worse, champion, slices=slices
        ).passed
        for margin in (0.2, 0.1)
    )
    assert within == (slice_margin > 0.2)
    assert not beyond


@pytest.mark.parametrize(("task", "name"), CASES, ids=lambda v: v)
@given(seed=seeds, size=st.integers(30, 80), margin=st.floats(0, 1))
@settings(max_examples=10, deadline=None)
def test_a_model_passes_against_itself_with_any_margin(
    task: str, name: str, seed: int, size: int, margin: float
) -> None:
    truth, scores = MAKERS[task](seed, size)
    slices = pd.DataFrame({"part": np.array(["x", "y"])[np.arange(size) % 2]})
    wanted = rules(metric=name, min=ANY_FLOOR[name], max_regression=margin, slices={"part": margin})
    verdict = gate.evaluate_gate(wanted, truth, scores, scores, slices=slices)
    assert verdict.passed
    assert verdict.gain is not None
    assert verdict.gain.value == 0


@pytest.mark.parametrize(("task", "name"), CASES, ids=lambda v: v)
def test_a_model_that_answers_nan_never_passes(task: str, name: str) -> None:
    truth, good = MAKERS[task](1, 60)
    broken = Scores(good.task, np.full(60, math.nan), good.classes, good.labels, good.probabilities)
    wanted = rules(metric=name, min=ANY_FLOOR[name], max_regression=1.0)
    for champion in (None, good, broken):
        verdict = gate.evaluate_gate(wanted, truth, broken, champion)
        assert not verdict.passed
        assert "not defined" in verdict.reason
    assert not gate.evaluate_gate(wanted, truth, good, broken).passed
    assert gate.evaluate_gate(wanted, truth, good, good).passed


def test_no_rows_to_judge_on_never_pass() -> None:
    nothing = Scores("binary", np.array([]))
    assert not gate.evaluate_gate(rules(), np.array([]), nothing).passed


def test_a_first_model_has_the_floor_to_keep_and_nothing_else() -> None:
    truth, scores = graded(400, noise=1.0)
    value = float(metrics.measure("roc_auc", truth, scores)[0])
    assert gate.evaluate_gate(rules(min=value), truth, scores).passed
    refused = gate.evaluate_gate(rules(min=value + 1e-6), truth, scores)
    assert not refused.passed
    assert "below the floor" in refused.reason


def test_an_error_above_its_floor_is_refused() -> None:
    truth, scores = MAKERS["regression"](2, 50)
    value = float(metrics.measure("rmse", truth, scores)[0])
    assert gate.evaluate_gate(rules(metric="rmse", min=value), truth, scores).passed
    assert "above the floor" in gate.evaluate_gate(rules(metric="rmse", min=value * 0.99), truth, scores).reason


def test_a_slice_that_suffers_stops_a_model_that_is_better_as_a_whole() -> None:
    truth, champion = graded(4000, noise=1.5, seed=1)
    _, better = graded(4000, noise=0.5, seed=2)
    _, worse = graded(4000, noise=20.0, seed=3)
    small_airport = np.arange(4000) < 400
    mixed = Scores("binary", np.where(small_airport, worse.prediction, better.prediction), (0, 1))
    slices = pd.DataFrame({"origin": np.where(small_airport, "LGA", "JFK")})
    free = gate.evaluate_gate(rules(max_regression=0.01), truth, mixed, champion, slices=slices)
    held = gate.evaluate_gate(
        rules(max_regression=0.01, slices={"origin": 0.05}), truth, mixed, champion, slices=slices
    )
    assert free.passed
    assert not held.passed
    assert "where origin is LGA (400 rows) it falls from" in held.reason
    assert [(s.value, s.harmed) for s in held.slices] == [("JFK", False), ("LGA", True)]
    assert gate.evaluate_gate(rules(slices={"origin": 0.9}), truth, mixed, champion, slices=slices).passed


def test_slices_of_few_rows_and_missing_values_are_not_judged() -> None:
    truth, scores = graded(400, noise=1.0)
    slices = pd.DataFrame({"origin": ["A"] * 29 + [None] * 100 + ["B"] * 271})
    verdict = gate.evaluate_gate(rules(slices={"origin": 0.0}), truth, scores, scores, slices=slices)
    assert [(s.value, s.rows) for s in verdict.slices] == [("B", 271)]


def test_many_small_slices_do_not_refuse_an_equal_model_by_chance() -> None:
    """Two equally good models on 20 slices, 12 times: at most a few of refusals, though no margin is given."""
    slices = pd.DataFrame({"part": [f"p{i % 20:02d}" for i in range(1200)]})
    refused = 0
    for seed in range(12):
        (truth, one), (_, other) = graded(1200, noise=1.0, seed=seed), graded(1200, noise=1.0, seed=1000 + seed)
        wanted = rules(max_regression=1.0, slices={"part": 0.0}, resamples=200)
        refused += not gate.evaluate_gate(wanted, truth, one, other, slices=slices).passed
    assert refused <= 3


@pytest.mark.parametrize(("task", "name"), CASES, ids=lambda v: v)
def test_the_evidence_is_plain_json_also_where_numbers_are_not_defined(task: str, name: str) -> None:
    truth, scores = MAKERS[task](5, 90)
    slices = pd.DataFrame({"part": np.arange(90) // 45})
    truth[:45] = truth[0]
    wanted = rules(metric=name, min=ANY_FLOOR[name], slices={"part": 0.1})
    for verdict in (
        gate.evaluate_gate(wanted, truth, scores),
        gate.evaluate_gate(wanted, truth, scores, scores, slices=slices),
    ):
        assert json.loads(json.dumps(verdict.evidence(), allow_nan=False)) == verdict.evidence()


def test_labels_of_several_classes_are_judged_by_label() -> None:
    assert CLASSES == ("a", "b", "c")
    truth, bad = MAKERS["multiclass"](1, 90)
    shares = np.eye(3)[[CLASSES.index(t) for t in truth]]
    right = Scores("multiclass", shares.max(axis=1), CLASSES, tuple(truth), shares)
    assert gate.evaluate_gate(rules(metric="f1_macro", min=0.99), truth, right, bad).passed
    assert not gate.evaluate_gate(rules(metric="f1_macro", min=0.0), truth, bad, right).passed


@pytest.mark.parametrize(("task", "name"), CASES, ids=lambda v: v)
def test_memory_does_not_grow_with_the_resamples(task: str, name: str) -> None:
    """500 resamples of 200,000 rows took 4 GB."""
    truth, candidate = MAKERS[task](0, 20_000)
    champion = MAKERS[task](1, 20_000)[1]
    parts = pd.DataFrame({"part": np.random.default_rng(0).choice(["x", "y"], 20_000)})

    def peak_mb(resamples: int) -> float:
        wanted = rules(metric=name, min=ANY_FLOOR[name], slices={"part": 0.1}, resamples=resamples)
        tracemalloc.start()
        gate.evaluate_gate(wanted, truth, candidate, champion, slices=parts)
        peak = tracemalloc.get_traced_memory()[1] / 1e6
        tracemalloc.stop()
        return peak

    assert peak_mb(400) < peak_mb(50) + 5 < 60
