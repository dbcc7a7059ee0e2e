"""Assignment to arms: uniform, sticky, and anew for each rollout."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from trimtab.rollout.assignment import bucket

KEYS = 20_000


@given(rollout=st.text(max_size=200), key=st.text(max_size=200))
def test_any_texts_have_one_bucket_below_one(rollout: str, key: str) -> None:
    assert 0 <= bucket(rollout, key) < 1
    assert bucket(rollout, key) == bucket(rollout, key)


@given(key=st.text(), low=st.floats(0, 1), high=st.floats(0, 1))
def test_a_key_that_the_challenger_has_stays_its_own_as_the_share_rises(key: str, low: float, high: float) -> None:
    low, high = sorted((low, high))
    if bucket("r", key) < low:
        assert bucket("r", key) < high


@given(rollout=st.uuids().map(str))
def test_buckets_are_uniform_over_keys(rollout: str) -> None:
    """Kolmogorov's distance of 2,000 keys; the bound is passed by one rollout in about 10^9."""
    size = 2000
    found = sorted(bucket(rollout, f"N{i}") for i in range(size))
    distance = max(max((i + 1) / size - x, x - i / size) for i, x in enumerate(found))
    assert distance < math.sqrt(math.log(2e9) / (2 * size))


def test_rollouts_choose_independently_of_each_other() -> None:
    """Of the keys in the lowest tenth of one rollout, a tenth is there in another: binomial, within 6 deviations."""
    first = [key for key in map(str, range(KEYS)) if bucket("first", key) < 0.1]
    for other in ("second", "first ", "first\0", "rollout-2013-03", "a" * 100):
        both = sum(bucket(other, key) < 0.1 for key in first)
        expected = len(first) * 0.1
        assert abs(both - expected) < 6 * math.sqrt(expected * 0.9), other


def test_buckets_never_change() -> None:
    """What telemetry says of an old rollout has to be found again: these were made once and written down."""
    assert [bucket("rollout", key) for key in ("", "N1", "é")] == [
        0.8417083884613268,
        0.6107340912717857,
        0.5852141907904514,
    ]
