"""What a Parquet file holds is what a frame has, gaps or not."""

from __future__ import annotations

import io

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stores.parquet_frames import read_frame

BIG = 2**53 + 1


def kept(**columns: pa.Array) -> pd.DataFrame:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return read_frame(io.BytesIO(sink.getvalue()))


@pytest.mark.parametrize("gap", [None, 5])
def test_an_id_beyond_2_to_53_stays_what_it_is(gap: int | None) -> None:
    found = kept(id=pa.array([BIG, gap], pa.int64()), other=pa.array(["a", "b"]))
    assert found["id"].iloc[0] == BIG
    assert list(found) == ["id", "other"]


def test_true_with_a_gap_stays_a_boolean() -> None:
    found = kept(late=pa.array([True, None, False]))["late"]
    assert found.tolist() == [True, pd.NA, False]


def test_a_float_with_a_gap_is_a_float() -> None:
    assert kept(x=pa.array([1.5, None]))["x"].dtype == "float64"


def test_columns_without_a_gap_have_the_usual_types() -> None:
    found = kept(i=pa.array([1, 2]), b=pa.array([True, False]), s=pa.array(["a", "b"]))
    assert [str(kind) for kind in found.dtypes] == ["int64", "bool", "str"]
