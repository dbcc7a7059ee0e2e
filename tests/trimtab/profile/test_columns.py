"""What a column holds is told from its values, however they are written."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.profile.columns import profile_column
from trimtab.profile.number_formats import NumberFormat, find_number_format
from trimtab.profile.time_formats import find_time_format


def column(values: list[Any], name: str = "c") -> pd.Series[Any]:
    return pd.Series(values, name=name, dtype=object if any(v is None for v in values) else None)


@pytest.mark.parametrize(
    ("texts", "numbers"),
    [
        (["1", "2.5", "-3e2"], [1, 2.5, -300]),
        (["1,5", "2,25"], [1.5, 2.25]),
        (["1.234,5", "12,0"], [1234.5, 12]),
        (["1,234", "12,345,678"], [1234, 12345678]),
        (["1 234,5", "12,0"], [1234.5, 12]),
        (["$1,234.50", "$2.00"], [1234.5, 2]),
        (["12 %", "3.5 %"], [12, 3.5]),
        (["10 €", "2,50 €"], [10, 2.5]),
    ],
)
def test_a_number_is_read_as_people_write_it(texts: list[str], numbers: list[float]) -> None:
    found = find_number_format(texts)
    assert found is not None
    assert [found.parse(text) for text in texts] == numbers


@pytest.mark.parametrize("texts", [["a", "1"], ["1.2.3"], ["2013-01-01"], ["1,2,3", "4"], [""], []])
def test_what_is_no_number_has_no_format(texts: list[str]) -> None:
    assert find_number_format(texts) is None


@given(st.lists(st.floats(-1e6, 1e6).map(lambda x: round(x, 2)), min_size=3, max_size=20))
def test_numbers_that_were_written_are_found_again(numbers: list[float]) -> None:
    how = NumberFormat(decimal=",", thousands=".")
    texts = [f"{x:,.2f}".translate(str.maketrans(",.", ".,")) for x in numbers]
    assert [how.parse(text) for text in texts] == numbers
    found = find_number_format(texts)
    assert found is not None and [found.parse(text) for text in texts] == numbers


@pytest.mark.parametrize(
    ("values", "first"),
    [
        (["2013-03-04", "2013-03-05"], "2013-03-04"),
        (["2013-03-04T05:06:07Z", "2013-03-05T00:00:00+02:00"], "2013-03-04 05:06:07"),
        (["04.03.2013", "25.12.2013"], "2013-03-04"),
        (["03/25/2013 14:05", "12/01/2013 09:00"], "2013-03-25 14:05"),
        (["2013-03", "2013-04"], "2013-03-01"),
        (["201303", "201304"], "2013-03-01"),
        (["20130304", "20130305"], "2013-03-04"),
        (["1977", "2002"], "1977-01-01"),
        (["1362373567", "1362373600"], "2013-03-04 05:06:07"),
        (["1362373567000", "1362373600000"], "2013-03-04 05:06:07"),
    ],
)
def test_a_time_is_read_as_people_and_machines_write_it(values: list[str], first: str) -> None:
    found = find_time_format(pd.Series(values))
    assert found is not None
    assert found.parse(pd.Series(values))[0] == pd.Timestamp(first)


def test_day_and_month_that_may_be_either_are_said_to_be() -> None:
    found = find_time_format(pd.Series(["03/04/2013", "05/06/2013"]))
    assert found is not None and found.alternatives == ("%d/%m/%Y",)


@pytest.mark.parametrize("values", [["1", "2"], ["12.5", "13.5"], ["abc"], ["1234567", "7654321"], [True, False]])
def test_what_is_no_time_has_no_format(values: list[Any]) -> None:
    assert find_time_format(pd.Series(values)) is None


@pytest.mark.parametrize(
    ("values", "content"),
    [
        ([*map(str, range(1, 101))], "identifier"),
        ([f"u{i}" for i in range(100)], "identifier"),
        (["yes", "no", "", "yes"] * 25, "boolean"),
        (["red", "green"] * 50, "category"),
        (["01000", "02000"] * 50, "category"),
        (["1.5", "2", "-"] * 33, "number"),
        (["same"] * 100, "constant"),
        ([""] * 100, "empty"),
        (["", *["x"], *[""] * 98], "empty"),
        ([f"the dish number {i} was very good" for i in range(50)] * 1 + ["the dish was cold and late"] * 2, "text"),
    ],
)
def test_a_column_holds_what_its_values_say(values: list[str], content: str) -> None:
    assert profile_column(column(values)).content == content


def test_a_stand_in_for_missing_is_seen_and_not_applied() -> None:
    ages = [str(a) for a in np.random.default_rng(0).integers(18, 90, 200)] + ["999"] * 10
    found = profile_column(column(ages))
    assert list(found.sentinels) == [999.0]
    assert found.clean(column(ages)).max() == 999


def test_na_is_missing_among_words_and_namibia_among_codes_of_two_letters() -> None:
    assert profile_column(column(["NA", "red", "green"])).missing == ("NA",)
    assert profile_column(column(["NA", "DE", "FR"])).missing == ()


def test_clean_values_have_missing_ones_where_they_were() -> None:
    found = profile_column(column(["1,5", "-", "", "2,0"]))
    assert found.clean(column(["1,5", "-", "", "2,0"])).isna().tolist() == [False, True, True, False]
