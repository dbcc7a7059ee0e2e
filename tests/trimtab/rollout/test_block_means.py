"""A difference has to hold from day to day: labels of one day are not independent of each other."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from trimtab.data.arrays import Floats
from trimtab.rollout import block_means, sequential_test
from trimtab.rollout.config import RolloutConfig

Times = np.ndarray[Any, np.dtype[np.int64]]
DAY = timedelta(days=1)
DAY_US = 86_400_000_000


def stream(days: int, *, mean: float, seed: int, per_day: int = 200) -> tuple[Floats, Times]:
    """Differences whose days have means of their own, spread by 0.03 around *mean*."""
    random = np.random.default_rng(seed)
    shift = np.repeat(random.normal(mean, 0.03, days), per_day)
    return np.clip(shift + random.normal(0, 0.05, days * per_day), -1, 1), np.repeat(np.arange(days), per_day) * DAY_US


def test_one_strange_day_proves_nothing() -> None:
    values, times = stream(1, mean=-0.1, seed=0)
    found = block_means.block_mean(values, times, DAY, 0.05)
    assert found.blocks == 1
    assert not found.not_worse(0.002)
    assert "1 of at least 5 days" in found.describe(DAY)


def test_a_difference_that_holds_every_day_is_shown() -> None:
    values, times = stream(20, mean=-0.05, seed=1)
    assert block_means.block_mean(values, times, DAY, 0.05).not_worse(0.002)
    assert block_means.block_mean(-values, times, DAY, 0.05).worse()
    assert not block_means.block_mean(values, times, DAY, 0.05).worse()


def test_the_day_that_has_just_begun_is_left_out() -> None:
    values, times = stream(6, mean=0.0, seed=2)
    found = block_means.block_mean(np.r_[values, [0.9] * 10], np.r_[times, [6 * DAY_US] * 10], DAY, 0.05)
    assert found == block_means.block_mean(values, times, DAY, 0.05)


@pytest.mark.parametrize("empty", [[], [float("nan")] * 9], ids=["none", "unknown"])
def test_without_labels_nothing_is_known(empty: list[float]) -> None:
    found = block_means.block_mean(np.array(empty), np.zeros(len(empty), dtype=np.int64), DAY, 0.05)
    assert not found.not_worse(1.0)
    assert not found.worse()


def test_days_with_means_of_their_own_deceive_the_labels_and_not_the_days() -> None:
    """120 challengers that are worse by the margin on the average day, looked at after every day for a month.

    A verdict by label stays (`test_sequential_test`), so the last look says from which day on there was a promotion.
    """
    rules = RolloutConfig(margin=0.01, min_labels=200)
    by_label = by_day = 0
    for seed in range(120):
        values, times = stream(30, mean=rules.margin, seed=seed)
        outcome, labels = sequential_test.decide(sequential_test.accumulate(values, rules), rules)
        if outcome != "promote":
            continue
        by_label += 1
        by_day += any(
            block_means.block_mean(values[: d * 200], times[: d * 200], DAY, rules.alpha).not_worse(rules.margin)
            for d in range(math.ceil(labels / 200), 31)
        )
    assert by_label > 40
    assert by_day <= 12  # twice alpha of 120: the interval is an asymptotic one
