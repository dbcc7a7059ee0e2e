"""Bad rows are refused by row, field and reason; good ones keep their times and ids."""

from __future__ import annotations

from typing import Any

import pytest

from trimtab.data.features import Feature
from trimtab.data.types import Columns
from trimtab.requests.parser import RowParser
from trimtab.requests.values import BadInput

PARSER = RowParser(
    [
        Feature(name="distance", kind="number", nullable=False),
        Feature(name="hour", kind="number"),
        Feature(name="carrier", kind="category"),
        Feature(name="private", kind="number", values="boolean"),
    ],
    Columns(time="scheduled", id="flight", key="tail", target="late"),
)
GOOD = {"distance": 900, "hour": 7, "carrier": "UA", "private": False}


@pytest.mark.parametrize("rows_before", [0, 3, 200], ids=lambda n: f"row-{n}")
@pytest.mark.parametrize(
    ("bad", "field", "problem"),
    [
        ({**GOOD, "speed": 1}, "speed", "unknown field"),
        ({**GOOD, "late": 1}, "late", "send it to /labels"),
        ({"hour": 7}, "distance", "missing"),
        ({**GOOD, "distance": None}, "distance", "must not be null"),
        ({**GOOD, "distance": "far"}, "distance", "must be a number"),
        ({**GOOD, "hour": True}, "hour", "must be a number or null"),
        ({**GOOD, "hour": [7]}, "hour", "must be a number or null"),
        ({**GOOD, "distance": 10**400}, "distance", "too large"),
        ({**GOOD, "carrier": 7.5}, "carrier", "must be text or null"),
        ({**GOOD, "private": 1}, "private", "must be true or false"),
        ({**GOOD, "scheduled": "yesterday"}, "scheduled", "must be a time"),
        ({**GOOD, "scheduled": 1362096000}, "scheduled", "must be a time"),
        ({**GOOD, "flight": 1.5}, "flight", "must be text or an integer"),
        ([1], None, "must be an object"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_error_names_row_and_field(bad: Any, field: str | None, problem: str, rows_before: int) -> None:
    with pytest.raises(BadInput, match=problem) as caught:
        PARSER.read([*[GOOD] * rows_before, bad, GOOD], now_us=0)
    assert (caught.value.row, caught.value.field) == (rows_before, field)


@pytest.mark.parametrize("rows", [[], None, "rows", {}], ids=str)
def test_there_must_be_rows(rows: Any) -> None:
    with pytest.raises(BadInput, match="at least one row"):
        PARSER.read(rows, now_us=0)


@pytest.mark.parametrize("copies", [1, 100], ids=["few", "many"])
def test_times_are_utc_whatever_their_offset(copies: int) -> None:
    texts = ["2013-03-01T05:00:00Z", "2013-03-01T00:00:00-05:00", "2013-03-01T05:00:00", "2013-03-01 05:00"]
    rows = PARSER.read([{**GOOD, "scheduled": text} for text in texts] * copies, now_us=0)
    assert set(rows.time_us.tolist()) == {1_362_114_000_000_000}


def test_a_row_without_a_time_has_that_of_its_arrival() -> None:
    rows = PARSER.read([GOOD, {**GOOD, "scheduled": None}, {**GOOD, "scheduled": "1970-01-01"}], now_us=5)
    assert rows.time_us.tolist() == [5, 5, 0]


def test_ids_are_recorded_as_text_and_are_no_features() -> None:
    rows = PARSER.read([{**GOOD, "flight": 12, "tail": "N1"}, GOOD], now_us=0)
    assert rows.recorded == {"flight": ["12", None], "tail": ["N1", None]}
    assert list(rows.frame()) == ["distance", "hour", "carrier", "private"]


def test_the_order_of_keys_does_not_matter() -> None:
    turned = dict(reversed(GOOD.items()))
    rows = PARSER.read([GOOD, turned, {"distance": 1}], now_us=0).frame()
    assert rows.iloc[0].equals(rows.iloc[1])
    assert rows.iloc[2].isna().tolist() == [False, True, True, True]


def test_a_code_is_one_category_as_a_number_and_as_a_text() -> None:
    parser = RowParser([Feature(name="carrier", kind="category")], Columns(time="at", id="row", target="late"))
    assert parser.read([{"carrier": 7}, {"carrier": "7"}], now_us=0).columns["carrier"] == ["7", "7"]
    for _ in range(3):  # the shape is known by then
        assert parser.read([{"carrier": 7}], now_us=0).columns["carrier"] == ["7"]
