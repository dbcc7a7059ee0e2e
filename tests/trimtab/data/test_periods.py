"""Periods: written and read, moved and counted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.data.periods import Every, Period, PeriodError, span

LENGTHS = st.sampled_from(get_args(Every))
MOMENTS = st.datetimes(datetime(600, 1, 1), datetime(9000, 1, 1), timezones=st.just(UTC))
PERIODS = st.builds(Period.containing, MOMENTS, LENGTHS)


@given(PERIODS)
def test_a_period_is_read_as_it_is_written(period: Period) -> None:
    assert Period.parse(str(period), period.every) == period


@given(PERIODS, st.integers(-500, 500))
def test_moving_back_undoes_moving_on(period: Period, count: int) -> None:
    assert period.shift(count).shift(-count) == period
    assert (period.shift(count) > period) == (count > 0)


@given(MOMENTS, LENGTHS)
def test_a_moment_lies_in_its_period_and_in_no_other(moment: datetime, every: Every) -> None:
    period = Period.containing(moment, every)
    assert period.start <= moment < period.end
    assert period.end == period.shift(1).start
    assert period.start == period.shift(-1).end


@given(PERIODS, st.integers(-500, 500))
def test_the_distance_to_another_period_is_how_far_one_has_to_move(period: Period, count: int) -> None:
    assert period.distance(period.shift(count)) == count


@given(PERIODS, PERIODS)
def test_labels_sort_as_time_does(one: Period, other: Period) -> None:
    """Files and ledger rows are sorted by label."""
    if one.every == other.every:
        assert (str(one) < str(other)) == (one < other)


@given(PERIODS, st.integers(-3, 40))
def test_a_span_holds_both_ends_and_no_gap(first: Period, count: int) -> None:
    periods = list(span(first, first.shift(count)))
    assert len(periods) == max(0, count + 1)
    assert all(b.start == a.end for a, b in pairwise(periods))
    assert not periods or (periods[0], periods[-1]) == (first, first.shift(count))


def test_quarters_and_years_are_labelled_as_people_write_them() -> None:
    moment = datetime(2013, 8, 9, 10)
    assert str(Period.containing(moment, "quarter")) == "2013-Q3"
    assert str(Period.containing(moment, "year")) == "2013"


def test_a_moment_of_another_zone_counts_in_utc_and_one_of_none_is_utc() -> None:
    newyork = timezone(timedelta(hours=-5))
    assert str(Period.containing(datetime(2013, 1, 31, 20, tzinfo=newyork), "month")) == "2013-02"
    assert str(Period.containing(datetime(2013, 1, 31, 20), "month")) == "2013-01"


@pytest.mark.parametrize(
    ("text", "every", "cure"),
    [
        ("2013-3-x", "month", "write it like 2013-03"),
        ("2013-02-30", "day", "write it like 2013-03-04"),
        ("2013-03-05", "week", "that week is called 2013-03-04"),
        ("2013-03-04 05", "hour", "write it like 2013-03-04T00"),
        ("", "month", "write it like 2013-03"),
        ("2013-Q5", "quarter", "write it like 2013-Q1"),
        ("13", "year", "write it like 2013"),
    ],
)
def test_a_text_that_names_no_period_is_told_how_to_be_written(text: str, every: Every, cure: str) -> None:
    with pytest.raises(PeriodError, match=cure):
        Period.parse(text, every)
