"""Few files, none forgotten too early, and a server that is not held up: merging, retention, and compaction in a
process of its own."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from stores import telemetry
from stores.telemetry import CompactionProcess, Recorder, compact, delete_before
from stores.telemetry.parquet import files, merge
from stores.telemetry.parquet.compaction_process import start
from stores.telemetry.wal import streams
from tests.stores.test_telemetry import APRIL, MARCH, MAY, label, send
from tests.stores.test_telemetry_pairs import backdate, pair
from tests.waiting import eventually


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path)


@pytest.fixture
def fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three parts are enough to be merged, and four are too many."""
    monkeypatch.setattr(merge, "FEWEST", 3)
    monkeypatch.setattr(merge, "MOST", 4)


def segments_of(recorder: Recorder, size: int, **more: Any) -> list[str]:
    """As many segments of every stream, an hour of data apart."""
    ids = []
    for hour in range(size):
        ids += send(recorder, MARCH + timedelta(hours=hour), **more)
        pair(recorder, 1, ids=ids[-1:], rollout=f"f{hour}")
        label(recorder, ids[-1:], hour, received_us=hour)
        recorder.roll()
    return ids


def seen(root: Path) -> list[pd.DataFrame]:
    """All that readers are given."""
    return [telemetry.joined(root), telemetry.pairs(root), telemetry.labels(root)]


def single_parts(root: Path, stream: str) -> list[Path]:
    return list(files.parts_folder(root, stream).glob("*.parquet"))


@pytest.mark.usefixtures("fewer")
def test_many_parts_become_few_and_nothing_that_a_reader_sees_changes(recorder: Recorder) -> None:
    segments_of(recorder, 2)
    segments_of(recorder, 3, gate=["B7"])  # these have a column more
    label(recorder, telemetry.predictions(recorder.root)["prediction_id"].tolist()[:1], 9, received_us=99)
    recorder.roll()
    before = seen(recorder.root)
    assert compact(recorder.root) == 16
    for stream, left in ((streams.PREDICTIONS, 1), (streams.PAIRS, 1), (streams.LABELS, 2)):
        assert len(files.parts(recorder.root, stream)) == 1 + left
        assert len(single_parts(recorder.root, stream)) == left
    for old, new in zip(before, seen(recorder.root), strict=True):
        pd.testing.assert_frame_equal(new[list(old)], old, check_dtype=False, check_categorical=False)
    assert len(telemetry.predictions(recorder.root, MARCH, MARCH + timedelta(hours=1))) == 2
    assert telemetry.pairs(recorder.root, rollout="f1")["rollout"].tolist() == ["f1"] * 2


@pytest.mark.usefixtures("fewer")
@pytest.mark.parametrize("step", ["write_table", "replace", "unlink"])
def test_a_merge_that_dies_loses_and_doubles_nothing(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    ids = segments_of(recorder, 3)
    monkeypatch.setattr(merge, "FEWEST", 9)
    compact(recorder.root)
    monkeypatch.setattr(merge, "FEWEST", 3)

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    import pyarrow.parquet as pq

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pq.ParquetWriter if step == "write_table" else Path, step, die)
        compact(recorder.root)
    assert telemetry.predictions(recorder.root)["prediction_id"].tolist() == ids
    compact(recorder.root)
    assert telemetry.predictions(recorder.root)["prediction_id"].tolist() == ids
    assert len(telemetry.pairs(recorder.root)) == 3
    assert not single_parts(recorder.root, streams.PREDICTIONS)


@pytest.mark.usefixtures("fewer")
@pytest.mark.parametrize("moment", [1, 2, 3], ids=["segments", "parts", "merged"])
@pytest.mark.parametrize("compacted", [False, True], ids=["at-once", "merged-only"])
def test_a_merge_between_two_steps_of_a_reader_hides_nothing(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch, moment: int, *, compacted: bool
) -> None:
    ids = segments_of(recorder, 3)
    if compacted:
        with monkeypatch.context() as patch:
            patch.setattr(merge, "FEWEST", 9)
            compact(recorder.root)
    listings = 0
    real = streams.file_names

    def list_then_compact(folder: Path) -> list[str]:
        nonlocal listings
        found = real(folder)
        listings += 1
        if listings == moment:
            compact(recorder.root)
        return found

    for module in (streams, files):
        monkeypatch.setattr(module, "file_names", list_then_compact)
    assert telemetry.predictions(recorder.root)["prediction_id"].tolist() == ids


@pytest.mark.usefixtures("fewer")
def test_parts_are_not_merged_over_a_segment_that_still_waits(recorder: Recorder) -> None:
    """It would count as merged, and its rows would be gone."""
    ids = segments_of(recorder, 5)
    waiting = list(streams.segments(recorder.root, streams.PREDICTIONS).values())[2]
    with waiting.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        compact(recorder.root)
        assert telemetry.predictions(recorder.root)["prediction_id"].tolist() == ids
        assert len(files.parts(recorder.root, streams.PREDICTIONS)) == 4
    compact(recorder.root)
    assert telemetry.predictions(recorder.root)["prediction_id"].tolist() == ids


def test_what_is_old_by_data_time_and_by_arrival_is_forgotten(recorder: Recorder) -> None:
    april = send(recorder, APRIL)
    recorder.roll()
    march = send(recorder, MARCH)
    label(recorder, march, 1)
    recorder.roll()
    waiting = send(recorder, MARCH)
    for stream in (streams.PREDICTIONS, streams.LABELS):
        for segment in streams.segments(recorder.root, stream).values():
            backdate(segment, 0 if segment.name.endswith("2.wal") else 7200)
    compact(recorder.root)
    assert delete_before(recorder.root, APRIL) == 0  # data time is over, arrival is not
    cutoff = datetime.now(UTC) - timedelta(hours=1)
    for part in files.parts(recorder.root, streams.PREDICTIONS):
        assert part.path.stat().st_mtime < cutoff.timestamp()
    assert delete_before(recorder.root, cutoff) == 3
    assert telemetry.predictions(recorder.root)["prediction_id"].tolist() == waiting
    assert telemetry.labels(recorder.root).empty
    assert set(april) & set(waiting) == set()


def test_a_part_with_one_row_of_later_data_stays(recorder: Recorder) -> None:
    later = datetime.now(UTC).replace(tzinfo=None) + timedelta(days=1)
    send(recorder, MARCH, later)
    recorder.close()
    (segment,) = streams.segments(recorder.root, streams.PREDICTIONS).values()
    backdate(segment, 7200)
    compact(recorder.root)
    assert delete_before(recorder.root, datetime.now(UTC)) == 0
    assert len(telemetry.predictions(recorder.root)) == 2


@pytest.mark.usefixtures("fewer")
@pytest.mark.parametrize("left", [".wal", ".parquet"], ids=["compaction", "merge"])
def test_nothing_forgotten_comes_back_when_what_made_parts_of_it_had_died(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    segments_of(recorder, 3)
    for stream in streams.STREAMS:
        for segment in streams.segments(recorder.root, stream).values():
            backdate(segment, 7200)
    real = Path.unlink

    def keep(path: Path, **more: Any) -> None:
        if path.suffix != left:
            real(path, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", keep)
        compact(recorder.root)
    assert len([*recorder.root.glob(f"predictions/wal/*{left}"), *single_parts(recorder.root, "predictions")]) >= 3
    delete_before(recorder.root, datetime.now(UTC) - timedelta(hours=1))
    compact(recorder.root)
    assert telemetry.predictions(recorder.root).empty
    assert telemetry.pairs(recorder.root).empty


def test_a_compactor_works_beside_the_writer_and_leaves_no_process_behind(recorder: Recorder) -> None:
    ids = segments_of(recorder, 2)
    open_ids = send(recorder, MAY)
    compactor = CompactionProcess(recorder.root, every_s=0)

    def tended() -> bool:
        compactor.run_once()
        return not compactor.running

    compactor.run_once()
    first = compactor.pid
    assert first is not None
    eventually(tended, "it has ended")
    assert compactor.failure is None
    assert len(streams.segments(recorder.root, streams.PREDICTIONS)) == 1  # the one that is being written
    compactor.run_once()
    assert not compactor.running  # there is nothing to do
    assert not Path(f"/proc/{first}").exists()
    assert telemetry.predictions(recorder.root)["prediction_id"].tolist() == ids + open_ids


def test_one_compaction_at_a_time_and_its_failure_is_seen(recorder: Recorder) -> None:
    segments_of(recorder, 1)
    with (recorder.root / "compacting.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with start(recorder.root) as process:
            assert process.wait(30) == 0
    assert len(streams.segments(recorder.root, streams.PREDICTIONS)) == 1
    files.parts_folder(recorder.root, streams.PREDICTIONS).write_text("no folder")
    compactor = CompactionProcess(recorder.root)
    compactor.run_once()

    def failed() -> bool:
        compactor.run_once()
        return compactor.failure is not None

    eventually(failed, "its failure")
    assert "parts" in str(compactor.failure)


def test_a_compactor_can_be_stopped_in_the_middle(recorder: Recorder) -> None:
    ids = segments_of(recorder, 3)
    compactor = CompactionProcess(recorder.root)
    compactor.run_once()
    time.sleep(0.3)
    compactor.stop()
    assert not compactor.running
    compact(recorder.root)
    assert telemetry.predictions(recorder.root)["prediction_id"].tolist() == ids


def test_a_compaction_without_a_folder_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "stores.telemetry", str(tmp_path / "nowhere")]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    assert ended.returncode == 1
    assert "nowhere" in ended.stderr


def test_lag_is_counted_from_the_oldest_row_that_waits_not_from_the_servers_start(recorder: Recorder) -> None:
    recorder.predictions(
        release="r", arm="champion", received_us=round((time.time() - 100) * 1e6), times_us=[0], numbers={}, texts={},
        prediction=[0.5],
    )  # fmt: skip
    assert files.oldest_pending_s(recorder.root) == pytest.approx(100, abs=5)
    recorder.close()
    compact(recorder.root)
    send(recorder, MARCH)
    assert files.oldest_pending_s(recorder.root) < 5
    assert os.listdir(recorder.root)
