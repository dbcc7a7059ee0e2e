"""Batches on disk: whole or not at all, and the same rows again change nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stores import batches
from stores.parquet_frames import read_frame

ROWS = pd.DataFrame({"id": ["a", "b", "c"], "x": [1.0, None, 3.0], "n": pd.Series([1, 2, None], dtype="Int64")})


def tree(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file below *folder*, with when it was written."""
    return {
        str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mtime_ns)
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_the_same_rows_again_change_nothing(tmp_path: Path) -> None:
    first = batches.land(tmp_path, "2013-03", ROWS)
    assert batches.accept(tmp_path, "2013-03", ROWS)
    assert batches.quarantine(tmp_path, "2013-03", first.digest, ROWS)
    before = {name: content for name, (content, _) in tree(tmp_path).items()}
    again = ROWS.set_axis([7, 8, 9])
    assert batches.land(tmp_path, "2013-03", again) == first
    assert not batches.accept(tmp_path, "2013-03", again)
    assert not batches.quarantine(tmp_path, "2013-03", first.digest, again)
    assert {name: content for name, (content, _) in tree(tmp_path).items()} == before
    assert len(before) == 3


def test_a_corrected_batch_takes_the_place_of_the_accepted_rows_and_both_stay_landed(tmp_path: Path) -> None:
    wrong, right = ROWS.head(2), ROWS
    landed = [batches.land(tmp_path, "2013-03", rows) for rows in (wrong, right)]
    assert batches.accept(tmp_path, "2013-03", wrong)
    assert batches.accept(tmp_path, "2013-03", right)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "data/accepted/2013-03.parquet"), right)
    assert [len(pd.read_parquet(batch.path)) for batch in landed] == [2, 3]


def test_the_batch_that_landed_last_is_found_also_when_it_had_landed_before(tmp_path: Path) -> None:
    one, two = batches.land(tmp_path, "2013-03", ROWS), batches.land(tmp_path, "2013-03", ROWS.head(1))
    assert batches.landed(tmp_path, "2013-03") == two
    assert batches.landed(tmp_path, "2013-03", one.digest) == one
    batches.land(tmp_path, "2013-03", ROWS)
    assert batches.landed(tmp_path, "2013-03") == one


@pytest.mark.parametrize("digest", [None, "0" * 64])
def test_a_batch_that_never_landed_says_to_run_ingest(tmp_path: Path, digest: str | None) -> None:
    with pytest.raises(FileNotFoundError, match=r"of 2013-04 has landed.*run ingest"):
        batches.landed(tmp_path, "2013-04", digest)


def test_rows_that_are_no_longer_bad_leave_the_quarantine(tmp_path: Path) -> None:
    """A schema may be loosened; the same batch then passes whole."""
    assert batches.quarantine(tmp_path, "2013-03", "d1", ROWS)
    assert batches.quarantine(tmp_path, "2013-03", "d1", ROWS.iloc[:0])
    assert not batches.quarantine(tmp_path, "2013-03", "d1", ROWS.iloc[:0])
    assert tree(tmp_path / "data") == {}


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.none() | st.integers(-9, 9) | st.text(max_size=4) | st.floats(allow_nan=False) | st.booleans(), min_size=1
    )
)
def test_values_of_mixed_types_land_as_text_and_none_is_lost(tmp_path_factory: Any, values: list[object]) -> None:
    folder = tmp_path_factory.mktemp("mixed")
    frame = pd.DataFrame({"v": pd.Series(values, dtype=object)})
    kept = read_frame(batches.land(folder, "2013-03", frame).path)["v"]
    if len({float if type(v) is int else type(v) for v in values} - {type(None)}) > 1:
        assert [None if pd.isna(v) else v for v in kept] == [None if v is None else str(v) for v in values]
    else:
        assert [None if pd.isna(v) else v for v in kept] == values


def test_a_boolean_column_lands_as_one_with_and_without_a_gap(tmp_path: Path) -> None:
    for values in ([True, False], [True, None, False]):
        frame = pd.DataFrame({"v": pd.Series(values, dtype=object)})
        kept = read_frame(batches.land(tmp_path, "2013-03", frame).path)["v"]
        assert [None if pd.isna(v) else v for v in kept] == values
        assert pd.api.types.is_bool_dtype(kept.dtype)


def test_notes_that_a_frame_carries_are_no_part_of_its_identity(tmp_path: Path) -> None:
    noted = ROWS.copy()
    noted.attrs = {"fetched_at": "today"}
    assert batches.land(tmp_path, "2013-03", noted).digest == batches.land(tmp_path, "2013-03", ROWS).digest


def in_a_process(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    start = f"""
        import os, resource, signal, sys
        from pathlib import Path
        import pandas as pd
        from stores import batches
        folder = Path({str(folder)!r})
        rows = pd.DataFrame({{"x": range(20000)}})
    """
    text = textwrap.dedent(start) + textwrap.dedent(code)
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)


def test_a_crash_before_the_end_leaves_nothing_that_anybody_sees(tmp_path: Path) -> None:
    batches.accept(tmp_path, "2013-03", ROWS)
    before = tree(tmp_path / "data")
    code = """
        os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        batches.accept(folder, "2013-03", rows)
    """
    assert in_a_process(code, tmp_path).returncode == -signal.SIGKILL
    assert tree(tmp_path / "data") == before
    assert batches.accept(tmp_path, "2013-03", ROWS.head(1))


def test_a_full_disk_is_an_error_and_leaves_the_old_file_whole(tmp_path: Path) -> None:
    batches.accept(tmp_path, "2013-03", ROWS)
    before = tree(tmp_path)
    code = """
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        batches.accept(folder, "2013-03", rows)
    """
    ended = in_a_process(code, tmp_path)
    assert ended.returncode == 1
    assert "OSError: [Errno 27] File too large" in ended.stderr
    assert tree(tmp_path) == before


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="needs a second file system")
def test_the_data_folder_may_be_a_disk_of_its_own(tmp_path: Path) -> None:
    import tempfile

    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        if Path(other).stat().st_dev == tmp_path.stat().st_dev:
            pytest.skip("needs a second file system")
        (tmp_path / "data").symlink_to(other)
        landed = batches.land(tmp_path, "2013-03", ROWS)
        assert len(tree(Path(other))) == 1
        pd.testing.assert_frame_equal(pd.read_parquet(landed.path), ROWS)
