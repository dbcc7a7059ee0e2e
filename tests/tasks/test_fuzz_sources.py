"""Whatever is in a source's file, reading it gives rows or an error that names the file."""

from __future__ import annotations

import io
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tasks.source_access import SourceError
from tasks.sources import fetch
from tests.fuzzing import damaged, outcomes
from tests.tasks.source_params import source_params
from trimtab.data.periods import Period

MARCH = Period.containing(datetime(2013, 3, 1), "month")
ROWS = pd.DataFrame(
    {
        "flight": ["a", "b", "c"],
        "scheduled": pd.to_datetime(pd.Series(["2013-03-01", "2013-03-02", None])),
        "distance": [1.5, None, 3.0],
        "carrier": pd.Categorical(["UA", "ÜA", None]),
        "is_late": [True, False, None],
    }
)


def _parquet(**how: Any) -> bytes:
    sink = io.BytesIO()
    ROWS.to_parquet(sink, **how)
    return sink.getvalue()


FILES: dict[str, list[bytes]] = {
    "parquet": [_parquet(), _parquet(index=False, compression=None), _parquet(compression="gzip")],
    "csv": [ROWS.to_csv(index=False).encode(), ROWS.to_csv(index=False, quoting=1).encode("utf-16")],
}


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", FILES)
def test_a_file_is_rows_or_a_source_error(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"2013-03.{kind}"

    def read(content: bytes) -> object:
        path.write_bytes(content)
        try:
            return fetch(tmp_path, source_params(f"{{period}}.{kind}"), MARCH)
        except SourceError as error:
            if path.name not in str(error):
                raise ValueError("the error does not name the file") from error
            raise

    taken, refused = outcomes(damaged(FILES[kind]), read, (SourceError,))
    assert taken and refused
