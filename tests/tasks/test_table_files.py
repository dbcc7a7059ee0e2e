"""CSV cells are read as params.yaml says, and never by what they look like."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest

from tasks.source_access import SourceError
from tasks.table_files import read_table
from tests.tasks.source_params import source_params
from trimtab.data.periods import Period

MARCH = Period.parse("2013-03", "month")


def read(text: str, written_as: str = "utf-8", **csv: object) -> pd.DataFrame:
    return read_table(io.BytesIO(text.encode(written_as)), "rows.csv", source_params("rows.csv", **csv), MARCH)


@pytest.mark.parametrize("cell", ["NA", "01000", "9007199254740993", "True", "1e5", "2013-03-01", "None", "null", " x"])
@pytest.mark.parametrize("column", ["id", "country"])
def test_a_cell_of_a_text_column_stays_as_it_is_written(column: str, cell: str) -> None:
    found = read(f"id,country,x\n{cell},{cell},1\nb,,2\n")
    assert found[column].tolist()[0] == cell
    assert pd.isna(found["country"][1]), "an empty cell is missing"


def test_a_column_has_the_same_type_in_every_file() -> None:
    digits, letters = read("id,country,x\n1,1,1\n"), read("id,country,x\na,b,1.5\n")
    assert digits.dtypes.tolist() == letters.dtypes.tolist()


def test_many_rows_are_typed_as_one() -> None:
    rows = "".join(f"{i},{'A' if i > 590_000 else i % 51},1\n" for i in range(600_000))
    assert read(f"id,country,x\n{rows}")["country"].nunique() == 52


def test_only_declared_spellings_are_missing_in_a_text_column() -> None:
    found = read("id,country,x\na,-,1\nb,NA,2\n", missing=["", "-"])
    assert pd.isna(found["country"][0]) and found["country"][1] == "NA"


def test_numbers_are_read_with_the_declared_marks() -> None:
    found = read("id;x\na;1.234,5\nb;-7,25\nc;NA\nd;12\n", separator=";", decimal=",", thousands=".")
    assert found["x"].tolist()[:2] == [1234.5, -7.25]
    assert pd.isna(found["x"][2]) and found["x"][3] == 12


@pytest.mark.parametrize("cell", ["1.5", "12.34,5", "1,2,3", "abc"])
def test_a_number_of_another_notation_is_no_number(cell: str) -> None:
    found = read(f"id;x\na;{cell}\nb;1\n", separator=";", decimal=",", thousands=".")
    assert found["x"].tolist() == [cell, "1"], "validation says that it is no number"


def test_umlauts_are_read_in_the_declared_encoding() -> None:
    assert read("id,country,x\na,Köln,1\n", "cp1252", encoding="cp1252")["country"][0] == "Köln"
    with pytest.raises(SourceError, match=r"rows\.csv cannot be read for 2013-03"):
        read("id,country,x\na,Köln,1\n", "cp1252")


def test_integers_of_a_parquet_file_keep_their_digits_beside_a_gap(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pd.DataFrame({"id": pd.array([9007199254740993, None], dtype="Int64")}).to_parquet(path)
    assert read_table(path, str(path), source_params("rows.parquet"), MARCH)["id"].iloc[0] == 9007199254740993
