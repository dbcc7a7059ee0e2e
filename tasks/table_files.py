"""Reads a Parquet or CSV file of a source. A CSV is read as `source.csv` in params.yaml says: nothing about its cells
is guessed, so the same text means the same in every file."""

from __future__ import annotations

import csv
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd

from stores.parquet_frames import read_frame
from tasks.source_access import SourceError
from trimtab.config.params import Params
from trimtab.config.sections import CsvConfig
from trimtab.data.conversion import from_text
from trimtab.data.periods import Period


def read_table(content: Path | BytesIO, name: str, params: Params, period: Period) -> pd.DataFrame:
    """The rows in *content*, the file *name*. Raises SourceError, which names the file and *period*.

    Columns of a CSV that params.yaml names under `columns.number`, and a target that is a number, are numbers where
    every cell is one; all other columns are text, and missing only where a cell has one of the declared spellings.
    """
    try:
        if name.endswith(".parquet"):
            return read_frame(content)
        return _numbers_in(_read_csv(content, params.source.csv), params)
    except Exception as error:  # pyarrow, pandas and codecs raise many types on a damaged file
        raise SourceError(f"{name} cannot be read for {period}: {type(error).__name__}: {error}") from error


def _read_csv(content: Path | BytesIO, how: CsvConfig) -> pd.DataFrame:
    return pd.read_csv(
        content,
        sep=how.separator,
        encoding=how.encoding,
        dtype="str",
        keep_default_na=False,
        na_values=list(how.missing),
        quoting=csv.QUOTE_MINIMAL,
        index_col=False,
        low_memory=False,
    )


def _numbers_in(rows: pd.DataFrame, params: Params) -> pd.DataFrame:
    how, named = params.source.csv, set(params.columns.number)
    if params.project.task != "multiclass":
        named.add(params.columns.target)
    converted: dict[str, Any] = {
        name: from_text(rows[name], decimal=how.decimal, thousands=how.thousands) for name in rows if name in named
    }
    return rows.assign(**converted)
