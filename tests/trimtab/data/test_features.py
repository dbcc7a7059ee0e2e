"""One frame for training and serving, whatever the rows came in."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.serving.sample_project import flights
from trimtab.data.features import Feature, describe, frame
from trimtab.data.types import Columns
from trimtab.requests.parser import RowParser

COLUMNS = Columns(time="scheduled", id="flight", key="tail", target="late")
FEATURES = (
    Feature(name="distance", kind="number"),
    Feature(name="private", kind="number", values="boolean"),
    Feature(name="carrier", kind="category"),
    Feature(name="gate", kind="category", values="integer"),
)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "distance": st.none() | st.integers(-(10**6), 10**6) | st.floats(allow_nan=False, allow_infinity=False),
            "private": st.none() | st.booleans(),
            "carrier": st.none() | st.text(alphabet=st.characters(exclude_categories=["Cs"])),
            "gate": st.none() | st.integers(0, 99),
        }
    ),
    min_size=1,
    max_size=30,
)


@settings(deadline=None)
@given(ROWS)
def test_json_rows_and_a_frame_of_them_look_the_same_to_a_model(rows: list[dict[str, object]]) -> None:
    from_rows = frame(rows, FEATURES)
    parser = RowParser(FEATURES, COLUMNS)
    pd.testing.assert_frame_equal(parser.read(rows, now_us=0).frame(), from_rows)
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    pd.testing.assert_frame_equal(parser.read_columns(columns, now_us=0).frame(), from_rows)
    for table in (pd.DataFrame(rows), pd.DataFrame(rows, dtype=object)):
        pd.testing.assert_frame_equal(frame(table, FEATURES), from_rows)
    assert [str(t) for t in from_rows.dtypes] == ["float64", "float64", "str", "str"]


@settings(deadline=None)
@given(ROWS)
def test_a_frame_of_a_frame_is_itself(rows: list[dict[str, object]]) -> None:
    once = frame(rows, FEATURES)
    assert list(once) == [feature.name for feature in FEATURES]
    pd.testing.assert_frame_equal(frame(once, FEATURES), once)


@pytest.mark.parametrize(
    "column",
    [
        pd.Series([3, 1, None], dtype="Int64"),
        pd.Series([3, 1, None], dtype="float64"),
        pd.Series([3, 1, None], dtype=object),
        pd.Series([3, 1, None], dtype="category"),
        pd.Series(["3", "1", None], dtype="str"),
        pd.Series(["3", "1", None], dtype="string"),
        pd.Series(["3", "1", pd.NA], dtype=object),
        pd.Series(["3", "1", None], dtype="category"),
    ],
    ids=lambda column: f"{column.dtype}-{type(column.iloc[0]).__name__}",
)
def test_a_category_has_one_spelling(column: pd.Series) -> None:
    table = pd.DataFrame({"gate": column.set_axis([7, 8, 9])})
    got = frame(table, [FEATURES[3]])["gate"]
    assert got.isna().tolist() == [False, False, True]
    assert got.tolist()[:2] == ["3", "1"]
    assert got.index.equals(pd.RangeIndex(3))


def test_features_are_described_by_their_columns() -> None:
    table = flights().assign(private=True, gate=pd.array([1, None] * 200, dtype="Int64"))
    found = describe(table, number=["distance", "private"], category=["carrier", "gate"])
    assert found == FEATURES


def test_text_is_no_number() -> None:
    with pytest.raises(TypeError, match="carrier"):
        describe(flights(), number=["carrier"])


def test_the_input_is_never_changed() -> None:
    table = flights()
    before = table.copy(deep=True)
    made = frame(table, describe(table, number=["distance"], category=["carrier"]))
    assert list(made) == ["distance", "carrier"]
    pd.testing.assert_frame_equal(table, before)
