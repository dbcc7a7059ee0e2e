"""How a CSV is written is found by looking at it; `trimtab inspect` says what follows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tasks.source_access import SourceError
from tasks.table_samples import read_sample
from tests.trimtab.profile.test_table import parcels

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_separator_and_encoding_are_found(tmp_path: Path, separator: str, encoding: str) -> None:
    rows = pd.DataFrame({"city": ["Köln", "Zürich", "NA"] * 10, "code": ["01000", "2", "3"] * 10})
    path = tmp_path / "rows.csv"
    path.write_bytes(rows.to_csv(index=False, sep=separator).encode(encoding))
    found, how = read_sample(path)
    assert how is not None and how.separator == separator
    pd.testing.assert_frame_equal(found, rows, check_dtype=False)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"a,b\n"])
def test_a_file_without_rows_says_so(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r"rows\.csv"):
        read_sample(path)
    with pytest.raises(SourceError, match="is no file"):
        read_sample(tmp_path / "nothing.csv")


def test_the_command_says_what_follows_from_a_table(tmp_path: Path) -> None:
    path = tmp_path / "parcels.csv"
    parcels().to_csv(path, index=False, sep=";")
    command = [sys.executable, "-m", "cli", "inspect", str(path), "--target", "late"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "columns.time: sent_at" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    found = json.loads(
        subprocess.run([*command, "--json"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    )
    assert found["params"]["source"] == {"csv": {"separator": ";"}}
    wrong = subprocess.run([*command[:-1], "nothing"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert wrong.returncode == 1 and wrong.stderr.startswith("trimtab: there is no column nothing")
