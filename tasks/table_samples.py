"""Reads the first rows of a table that nothing is known about yet: how a CSV is written is found by looking at it."""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd

from stores.parquet_frames import read_frame
from tasks.source_access import SourceError
from trimtab.config.sections import CsvConfig

MOST_ROWS = 200_000
_PROBED_BYTES = 256 * 1024
_SEPARATORS = ",;\t|"
_ENCODINGS = ("utf-8-sig", "utf-16", "cp1252")


def read_sample(path: Path) -> tuple[pd.DataFrame, CsvConfig | None]:
    """Up to MOST_ROWS rows of a CSV or Parquet file, and how the CSV is written (None for Parquet).

    The cells of a CSV are texts as they are written. Raises SourceError, which says what to do.
    """
    if not path.is_file():
        raise SourceError(f"{path} is no file: name a CSV or Parquet file")
    try:
        if path.suffix == ".parquet":
            return read_frame(path).head(MOST_ROWS), None
        how = _notation(path)
        rows = pd.read_csv(path, sep=how.separator, encoding=how.encoding, dtype="str", keep_default_na=False,
                           index_col=False, nrows=MOST_ROWS)  # fmt: skip
    except SourceError:
        raise
    except Exception as error:  # pyarrow, pandas and codecs raise many types on a damaged file
        raise SourceError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    if rows.empty:
        raise SourceError(f"{path} has no rows")
    return rows, how


def _notation(path: Path) -> CsvConfig:
    """Encoding and separator of a CSV. Raises SourceError where neither can be told."""
    with path.open("rb") as file:
        start = file.read(_PROBED_BYTES)
    if not start.strip():
        raise SourceError(f"{path} is empty")
    encoding = next((name for name in _ENCODINGS if _decodes(start, name)), None)
    if encoding is None:
        raise SourceError(f"{path} is no text in UTF-8, UTF-16 or cp1252: write it in one of these")
    lines = start.decode(encoding, errors="ignore").splitlines()[:200]
    try:
        separator = csv.Sniffer().sniff("\n".join(lines), _SEPARATORS).delimiter
    except csv.Error:
        separator = max(_SEPARATORS, key=lines[0].count)
    return CsvConfig(
        separator=separator, encoding="utf-8" if encoding == "utf-8-sig" and not _has_mark(start) else encoding
    )


def _decodes(start: bytes, encoding: str) -> bool:
    if encoding == "utf-16" and start[:2] not in (b"\xff\xfe", b"\xfe\xff"):
        return False
    try:
        start.decode(encoding)
    except UnicodeDecodeError as error:
        return error.start > len(start) - 4  # a character that the probe has cut
    return True


def _has_mark(start: bytes) -> bool:
    return start.startswith(b"\xef\xbb\xbf")
