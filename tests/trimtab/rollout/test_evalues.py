"""E-values: the wealth follows its formula and rarely grows while the hypothesis holds."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from trimtab.data.arrays import Floats
from trimtab.rollout import evalues

streams = arrays.arrays(np.float64, st.integers(1, 60), elements=st.floats(-1, 1))
margins = st.floats(1e-4, 0.9)
ALPHA = 0.05
# What a true rate of alpha exceeds once in a thousand simulations of 300.
LUCK = 300 * ALPHA + 3.1 * math.sqrt(300 * ALPHA * (1 - ALPHA))


def unsteady(size: tuple[int, int], mean: float) -> Floats:
    """Heavy-tailed differences whose spread comes and goes, with this mean."""
    random = np.random.default_rng(3)
    swing = 1 + 0.9 * np.sin(np.arange(size[1]) / 50)
    return np.clip(0.02 * swing * random.standard_t(3, size), -0.9, 0.9) + mean


@given(differences=streams, margin=margins)
@settings(max_examples=50, deadline=None)
def test_wealth_is_never_lost_altogether(differences: Floats, margin: float) -> None:
    """Not even by a long run of the worst label."""
    for path in (
        evalues.against_worse(differences, margin),
        evalues.against_not_worse(differences, 0.0, unit=margin),
        evalues.against_not_worse(differences, margin, unit=margin),
    ):
        assert np.isfinite(path).all()
        assert (np.diff(path, prepend=0.0) > math.log(0.09)).all()


@given(differences=streams, margin=margins, later=streams)
@settings(max_examples=50, deadline=None)
def test_what_comes_later_changes_nothing_before(differences: Floats, margin: float, later: Floats) -> None:
    path = evalues.against_worse(differences, margin)
    longer = evalues.against_worse(np.concatenate([differences, later]), margin)
    assert (longer[: len(path)] == path).all()


def test_the_first_bet_is_worth_what_its_formula_says() -> None:
    """Before any label the variance is 0.05: the bets are d / (0.05 + d²), here for d of 0.01, 0.04, 0.16."""
    bets = [0.01 / 0.0501, 0.04 / 0.0516, 0.9 / 0.99]
    expected = sum(share * (1 + bet * (0.01 + 0.3)) for share, bet in zip((0.4, 0.4, 0.2), bets, strict=True))
    assert evalues.against_worse(np.array([-0.3]), 0.01)[0] == pytest.approx(math.log(expected))


def test_the_second_bet_has_learned_from_the_first() -> None:
    differences, wealth = np.array([-0.3, 0.2]), 0.0
    after = (0.25 + 0.0) / 6
    for share, d in zip(evalues.SHARES, (0.01, 0.04, 0.16), strict=True):
        first, second = min(d / (0.05 + d**2), 0.9), min(d / (after + d**2), 0.9)
        wealth += share * (1 - first * 0.3) * (1 + second * 0.2)
    found = evalues.against_not_worse(differences, 0.0, unit=0.01)
    assert found[1] == pytest.approx(math.log(wealth))


def test_the_variance_before_a_label_is_that_of_the_labels_before_it() -> None:
    differences = np.array([0.1, -0.2, 0.4, 0.0])
    expected = [(0.25 + k * differences[:k].var()) / (5 + k) if k else 0.05 for k in range(4)]
    assert evalues.running_variance(differences) == pytest.approx(np.array(expected))


def test_many_streams_are_judged_as_each_of_them() -> None:
    many = unsteady((4, 300), 0.001)
    together = evalues.against_worse(many, 0.002)
    assert (together == np.stack([evalues.against_worse(row, 0.002) for row in many])).all()
    assert evalues.first_crossing(together, 0.9).tolist() == [int(evalues.first_crossing(row, 0.9)) for row in together]


def test_the_first_crossing_counts_and_none_is_zero() -> None:
    paths = np.log(np.array([[2.0, 20.0, 1.0, 30.0], [1.0, 2.0, 19.9, 0.1]]))
    assert evalues.first_crossing(paths, 0.05).tolist() == [2, 0]
    assert evalues.first_crossing(np.zeros((3, 0)), 0.05).tolist() == [0, 0, 0]


@pytest.mark.parametrize("side", ["worse by the margin", "no difference"])
def test_a_true_hypothesis_is_refuted_at_most_alpha_of_the_time(side: str) -> None:
    if side == "no difference":
        paths = evalues.against_not_worse(unsteady((300, 3000), 0.0), 0.0, unit=0.002)
    else:
        paths = evalues.against_worse(unsteady((300, 3000), 0.002), 0.002)
    assert 0 < (evalues.first_crossing(paths, ALPHA) > 0).sum() <= LUCK


def test_an_interval_misses_the_mean_at_most_alpha_of_the_time_at_any_of_many_looks() -> None:
    streams = unsteady((300, 800), 0.1)
    looks = (30, 200, 800)
    missed = [
        any(not low <= 0.1 <= high for low, high in (evalues.interval(row[:n], alpha=ALPHA) for n in looks))
        for row in streams
    ]
    assert sum(missed) <= LUCK


@given(differences=streams, alpha=st.floats(0.001, 0.4))
@settings(max_examples=50, deadline=None)
def test_an_interval_holds_the_mean_and_is_wider_the_surer_it_has_to_be(differences: Floats, alpha: float) -> None:
    low, high = evalues.interval(differences, alpha=alpha)
    surer_low, surer_high = evalues.interval(differences, alpha=alpha / 10)
    assert -1 <= low <= differences.mean() + 1e-9
    assert differences.mean() - 1e-9 <= high <= 1
    slack = 0.02 * (surer_high - surer_low)
    assert surer_low <= low + slack
    assert high <= surer_high + slack


def test_an_interval_turns_around_with_its_numbers_and_narrows_with_them() -> None:
    differences = unsteady((1, 20_000), 0.003)[0]
    low, high = evalues.interval(differences, alpha=ALPHA)
    assert evalues.interval(-differences, alpha=ALPHA) == pytest.approx((-high, -low))
    earlier_low, earlier_high = evalues.interval(differences[:2000], alpha=ALPHA)
    assert high - low < (earlier_high - earlier_low) / 2
    fixed = 2 * 1.96 * differences.std() / math.sqrt(len(differences))
    assert fixed < high - low < 2.5 * fixed


def test_without_labels_anything_is_possible() -> None:
    assert evalues.interval(np.array([]), alpha=ALPHA) == (-1.0, 1.0)


def test_what_is_detectable_is_what_half_the_simulations_detect() -> None:
    difference = evalues.detectable(2000, 0.04, alpha=ALPHA, power=0.5)
    random = np.random.default_rng(0)
    differences = random.normal(difference, 0.04, (200, 2000))
    found = evalues.first_crossing(evalues.against_not_worse(differences, 0.0, unit=0.002), ALPHA) > 0
    assert 0.4 < found.mean() < 0.75
    assert difference < evalues.detectable(2000, 0.04, alpha=ALPHA, power=0.8)
    assert difference > evalues.detectable(8000, 0.04, alpha=ALPHA, power=0.5)
    assert evalues.detectable(2, 0.4, alpha=ALPHA) == 1.0


def test_a_hundred_thousand_labels_are_tested_in_a_moment() -> None:
    differences = unsteady((1, 100_000), 0.001)[0]
    began = time.process_time()
    evalues.against_worse(differences, 0.002)
    evalues.against_not_worse(differences, 0.0, unit=0.002)
    evalues.interval(differences, alpha=ALPHA)
    assert time.process_time() - began < 0.3
