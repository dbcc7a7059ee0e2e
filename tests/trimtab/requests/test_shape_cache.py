"""Single rows that are checked one by one and parsed together give what one call for all of them gives."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.data.features import Feature
from trimtab.data.types import Columns
from trimtab.requests import shape_cache
from trimtab.requests.parser import RowParser
from trimtab.requests.rows import ParsedRows
from trimtab.requests.values import BadInput

FEATURES = [
    Feature(name="distance", kind="number", nullable=False),
    Feature(name="hour", kind="number"),
    Feature(name="carrier", kind="category"),
    Feature(name="gate", kind="category", values="integer"),
    Feature(name="cargo", kind="category", values="boolean"),
    Feature(name="private", kind="number", values="boolean"),
]
COLUMNS = Columns(time="scheduled", id="flight", key="tail", target="late")
GOOD = {"distance": 900, "hour": 7.5, "carrier": "UA", "gate": 3, "cargo": None, "private": False,
        "scheduled": "2013-03-01T05:00:00Z", "flight": "F1", "tail": 7}  # fmt: skip

odd = st.one_of(
    st.none(), st.booleans(), st.integers(), st.just(10**400), st.floats(allow_nan=False), st.text(max_size=3),
    st.lists(st.integers(), max_size=1), st.just("2013-03-01T05:00:00+02:00"), st.just("1970-01-01"),
)  # fmt: skip
fine = st.fixed_dictionaries(
    {"distance": st.one_of(st.integers(-(2**63), 2**64), st.floats(allow_nan=False))},
    optional={
        "hour": st.one_of(st.none(), st.floats(allow_nan=False)),
        "carrier": st.one_of(st.none(), st.text(max_size=3)),
        "gate": st.one_of(st.none(), st.integers()),
        "cargo": st.one_of(st.none(), st.booleans()),
        "private": st.one_of(st.none(), st.booleans()),
        "scheduled": st.one_of(st.none(), st.datetimes().map(lambda t: t.isoformat())),
        "flight": st.one_of(st.none(), st.text(max_size=3), st.integers()),
        "tail": st.one_of(st.none(), st.text(max_size=3), st.integers()),
    },
)
names = st.sampled_from([*GOOD, "late", "speed"])
broken = st.tuples(fine, names, odd).map(lambda made: {**made[0], made[1]: made[2]})
turned = st.one_of(fine, broken).map(lambda row: dict(reversed(row.items())))
rows = st.one_of(fine, fine, broken, turned, odd, st.just(GOOD))


def same(one: ParsedRows, other: ParsedRows) -> bool:
    """Equal to the bit, in values and in form."""
    assert one.columns.keys() == other.columns.keys()
    for name, values in one.columns.items():
        if isinstance(values, np.ndarray):
            assert other.columns[name].dtype == values.dtype
            np.testing.assert_array_equal(values, other.columns[name])
        else:
            assert values == other.columns[name]
    assert one.recorded == other.recorded
    np.testing.assert_array_equal(one.time_us, other.time_us)
    return (one.size, one.features) == (other.size, other.features)


def fault(of: BadInput | None) -> tuple[Any, ...] | None:
    return None if of is None else (str(of), of.problem, of.row, of.field, of.got)


def attempt(call: Any) -> tuple[Any, BadInput | None]:
    try:
        return call(), None
    except BadInput as error:
        return None, error


@given(st.lists(rows, min_size=1, max_size=6))
def test_rows_that_were_admitted_read_as_rows_that_were_not(sent: list[Any]) -> None:
    """Each row is checked or refused as it would be alone, also the second time; those that are checked give the
    same columns together. An integer beyond float64 may be found only when they are read."""
    parser = RowParser(FEATURES, COLUMNS)
    checked = []
    for row in [*sent, *sent]:
        _, refused = attempt(lambda row=row: parser.check_fast(row))
        _, wanted = attempt(lambda row=row: parser.read([row], now_us=0))
        if refused is None:
            checked.append(row)
            if wanted is not None:
                assert wanted.problem == "number too large"
        else:
            assert fault(refused) == fault(wanted)
    if checked:
        merged, problem = attempt(lambda: parser.read_checked(checked, now_us=5))
        plain, wanted = attempt(lambda: parser.read(checked, now_us=5))
        assert fault(problem) == fault(wanted)
        assert problem is not None or same(plain, merged)


def test_a_late_error_names_the_row_that_is_wrong() -> None:
    parser = RowParser(FEATURES, COLUMNS)
    parser.check_fast(GOOD)
    parser.check_fast({**GOOD, "distance": 10**400})
    with pytest.raises(BadInput, match="too large") as caught:
        parser.read_checked([{**GOOD, "distance": 10**308}, {**GOOD, "distance": 10**400}], now_us=0)
    assert (caught.value.row, caught.value.field) == (1, "distance")


def test_a_row_like_another_costs_a_fraction_of_the_long_way() -> None:
    parser = RowParser(FEATURES, COLUMNS)
    parser.check_fast(GOOD)

    def cost(call: Any) -> float:
        def once() -> float:
            started = time.process_time()
            for _ in range(500):
                call(dict(GOOD))
            return time.process_time() - started

        return min(once() for _ in range(5))

    assert cost(parser.check_fast) < 0.4 * cost(lambda row: parser.read([row], now_us=0))


def test_what_is_remembered_is_bounded() -> None:
    """Every key order is a form of its own, and there are more of them than anybody could remember."""
    parser = RowParser(FEATURES, COLUMNS)
    random = np.random.default_rng(0)
    for i in range(3 * shape_cache.MAX_SHAPES):
        order = random.permutation(list(GOOD))
        parser.check_fast({name: GOOD[name] for name in order} | {"scheduled": f"2013-03-01T05:00:00.{i:06d}"})
    for i in range(2 * shape_cache.MAX_TYPES_PER_SHAPE):
        parser.check_fast(
            {name: None if i >> k & 1 and name != "distance" else GOOD[name] for k, name in enumerate(GOOD)}
        )
    shapes = parser._shapes._shapes
    assert len(shapes) <= shape_cache.MAX_SHAPES
    assert max(len(shape.seen) for shape in shapes.values()) <= shape_cache.MAX_TYPES_PER_SHAPE
