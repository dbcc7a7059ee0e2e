"""Predictions and labels: nothing lost, nothing twice, whenever the writer or the compaction dies."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stores import telemetry
from stores.telemetry import Recorder, Unwritable, compact
from stores.telemetry.parquet import files
from stores.telemetry.wal import streams
from stores.telemetry.wal.log import WriteAheadLog
from tests.stores.killed import announced_by
from trimtab.data.labels import LabelRule

MARCH, APRIL, MAY = datetime(2013, 3, 1), datetime(2013, 4, 1), datetime(2013, 5, 1)


def send(recorder: Recorder, *moments: datetime, release: str = "r1", **more: list[str | None]) -> list[str]:
    """One request with a row per moment."""
    times = [round(m.replace(tzinfo=UTC).timestamp() * 1e6) for m in moments]
    return recorder.predictions(
        release=release,
        arm="champion",
        received_us=time.time_ns() // 1000,
        times_us=times,
        numbers={"distance": np.arange(len(times), dtype=float)},
        texts={"carrier": ["UA"] * len(times), **more},
        prediction=np.linspace(0, 1, len(times)),
    )


def label(recorder: Recorder, ids: list[str], value: object, received_us: int = 1) -> telemetry.LabelCounts:
    """One request that labels all *ids* alike."""
    values = [value] * len(ids)
    return recorder.labels(ids, values, received_us=received_us, times_us=[None] * len(ids))  # type: ignore[arg-type]


def segments(root: Path, stream: str = streams.PREDICTIONS) -> list[Path]:
    return list(streams.segments(root, stream).values())


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path)


def test_a_prediction_is_readable_before_anything_is_closed(recorder: Recorder) -> None:
    ids = send(recorder, MARCH, MARCH + timedelta(hours=1))
    found = telemetry.predictions(recorder.root)
    assert found["prediction_id"].tolist() == ids
    assert found["distance"].tolist() == [0, 1]
    assert found["time"].tolist() == [pd.Timestamp(MARCH, tz="UTC"), pd.Timestamp(2013, 3, 1, 1, tz="UTC")]
    assert found["release"].tolist() == ["r1", "r1"]


@pytest.mark.parametrize("compacted", [False, True], ids=["wal", "parquet"])
def test_only_the_asked_period_is_read(recorder: Recorder, *, compacted: bool) -> None:
    send(recorder, MARCH, APRIL)
    april = send(recorder, APRIL, MAY - timedelta(microseconds=1))
    send(recorder, MAY)
    if compacted:
        recorder.roll()
        compact(recorder.root)
    found = telemetry.predictions(recorder.root, "2013-04-01", MAY)
    assert len(found) == 3
    assert set(april) <= set(found["prediction_id"])


def test_other_periods_are_not_even_opened(recorder: Recorder) -> None:
    """A part outside the period could be broken and nobody would notice: that is what makes reading cheap."""
    send(recorder, MARCH)
    recorder.roll()
    compact(recorder.root)
    files.parts(recorder.root, streams.PREDICTIONS)[0].path.write_bytes(b"no parquet")
    ids = send(recorder, APRIL)
    assert telemetry.predictions(recorder.root, APRIL, MAY)["prediction_id"].tolist() == ids


def test_compaction_changes_nothing_a_reader_sees(recorder: Recorder) -> None:
    send(recorder, MAY, MARCH, APRIL, tail=["N1", None, "N2"])
    send(recorder, APRIL, release="r2", gate=["B7"])
    before = telemetry.predictions(recorder.root)
    recorder.roll()
    assert compact(recorder.root) == 1
    assert not segments(recorder.root)
    pd.testing.assert_frame_equal(telemetry.predictions(recorder.root)[before.columns], before)
    assert compact(recorder.root) == 0


def test_a_segment_in_use_is_left_alone(recorder: Recorder) -> None:
    send(recorder, MARCH)
    assert compact(recorder.root) == 0
    send(recorder, MARCH)
    assert len(telemetry.predictions(recorder.root)) == 2


@pytest.mark.parametrize("step", ["unlink", "replace", "fsync"])
def test_a_compaction_that_dies_loses_and_doubles_nothing(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    ids = send(recorder, MARCH, APRIL)
    recorder.roll()

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os if step == "fsync" else Path, step, die)
        compact(recorder.root)
    assert telemetry.predictions(recorder.root)["prediction_id"].tolist() == ids
    compact(recorder.root)
    assert telemetry.predictions(recorder.root)["prediction_id"].tolist() == ids
    assert not segments(recorder.root)


def test_readers_see_everything_once_while_segments_are_compacted(tmp_path: Path) -> None:
    """A writer and a compactor in another process; this one reads all the time and only ever sees more."""
    script = (
        "import sys; from pathlib import Path; from datetime import datetime, timedelta\n"
        "from tests.stores.test_telemetry import send, MARCH; from stores.telemetry import Recorder, compact\n"
        "r = Recorder(Path(sys.argv[1]), roll_bytes=2000)\n"
        "for i in range(300):\n"
        "    send(r, MARCH + timedelta(minutes=i)); print(i + 1, flush=True)\n"
        "    if i % 7 == 0: r.maintain(); compact(r.root)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as writer:
        assert writer.stdout is not None
        answered, seen = 0, 0
        for line in writer.stdout:
            answered = int(line)
            if answered % 10 == 0:
                found = telemetry.predictions(tmp_path)["prediction_id"]
                assert found.is_unique
                assert len(found) >= max(answered, seen)
                seen = len(found)
    assert len(telemetry.predictions(tmp_path)) == answered == 300


@pytest.mark.parametrize("moment", [1, 2], ids=["after-the-first-listing", "after-the-second-listing"])
def test_a_compaction_between_two_steps_of_a_reader_hides_nothing(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    ids = send(recorder, MARCH, APRIL)
    recorder.roll()
    listings = 0

    def interrupted(listing: Callable[[Path, str], Any]) -> Callable[[Path, str], Any]:
        def list_then_compact(root: Path, stream: str) -> Any:
            nonlocal listings
            found = listing(root, stream)
            listings += 1
            if listings == moment:
                compact(root)
            return found

        return list_then_compact

    for module, name in ((streams, "segments"), (files, "parts")):
        monkeypatch.setattr(module, name, interrupted(getattr(module, name)))
    assert telemetry.predictions(recorder.root)["prediction_id"].tolist() == ids
    assert not segments(recorder.root)


def test_two_compactions_at_once_do_the_work_once(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second has opened the segment already when the first one finishes it."""
    ids = send(recorder, MARCH)
    recorder.roll()
    real = fcntl.flock

    def beaten(fd: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", real)
        assert compact(recorder.root) == 1
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", beaten)
    assert compact(recorder.root) == 0
    assert telemetry.predictions(recorder.root)["prediction_id"].tolist() == ids


def test_a_killed_writer_leaves_all_that_it_announced(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from tests.stores.test_telemetry import send, MARCH; from stores.telemetry import Recorder\n"
        "r = Recorder(Path(sys.argv[1]), roll_bytes=5000)\n"
        "while True: print(*send(r, MARCH, MARCH), flush=True)\n"
    )
    ids = announced_by(script, tmp_path)
    compact(tmp_path)
    found = telemetry.predictions(tmp_path)["prediction_id"]
    assert found.is_unique
    assert set(ids) <= set(found)
    assert len(found) <= len(ids) + 4  # at most the requests whose announcement was cut


def test_a_torn_tail_is_ignored_and_the_next_life_goes_on(recorder: Recorder) -> None:
    ids = send(recorder, MARCH)
    recorder.close()
    with segments(recorder.root)[0].open("ab") as file:
        file.write(b"\xf5TT\xff half a record")
    again = Recorder(recorder.root)
    ids += send(again, MARCH)
    compact(recorder.root)
    assert set(telemetry.predictions(recorder.root)["prediction_id"]) == set(ids)
    assert not (recorder.root / streams.PREDICTIONS / "damaged").exists()


def test_a_segment_with_damage_inside_is_kept_for_a_look(recorder: Recorder) -> None:
    send(recorder, MARCH)
    ids = send(recorder, APRIL)
    recorder.close()
    (segment,) = segments(recorder.root)
    content = bytearray(segment.read_bytes())
    content[60] ^= 0xFF
    segment.write_bytes(content)
    compact(recorder.root)
    assert telemetry.predictions(recorder.root)["prediction_id"].tolist() == ids
    assert (recorder.root / streams.PREDICTIONS / "damaged" / segment.name).exists()


def test_labels_join_late_and_twice(recorder: Recorder) -> None:
    one, two = send(recorder, MARCH, APRIL)
    assert label(recorder, [one], 1) == telemetry.LabelCounts(1, 0, 0)
    assert label(recorder, [one], 1) == telemetry.LabelCounts(0, 1, 0)
    found = telemetry.joined(recorder.root).set_index("prediction_id")["label"]
    assert found[one] == 1
    assert pd.isna(found[two])


def test_a_label_for_an_old_period_is_found_by_that_period(recorder: Recorder) -> None:
    (march,) = send(recorder, MARCH + timedelta(seconds=10.5))
    (april,) = send(recorder, APRIL)
    for ids in ([april], [march]):
        label(recorder, ids, 1)
        recorder.roll()
        compact(recorder.root)
    asked = telemetry.joined(recorder.root, MARCH + timedelta(seconds=10.2), APRIL)
    assert asked[["prediction_id", "label"]].values.tolist() == [[march, 1]]
    assert telemetry.labels(recorder.root, APRIL, MAY)["prediction_id"].tolist() == [april]


@pytest.mark.parametrize("compacted", [False, True], ids=["wal", "parquet"])
def test_the_last_label_to_arrive_counts_and_contradictions_are_counted(recorder: Recorder, *, compacted: bool) -> None:
    (one,) = send(recorder, MARCH)
    label(recorder, [one], 0, received_us=1)
    assert label(recorder, [one], 1, received_us=2).conflicts == 1
    label(Recorder(recorder.root), [one], 1, received_us=3)
    if compacted:
        recorder.roll()
        compact(recorder.root)
    assert telemetry.labels(recorder.root)["label"].tolist() == [1]
    assert telemetry.count_labels(recorder.root) == telemetry.LabelShare(rows=3, distinct=1, conflicts=1)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arrivals=st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["a", "b", "c"])), max_size=20))
def test_labels_mean_the_same_in_however_many_pieces_they_came(
    tmp_path_factory: pytest.TempPathFactory, arrivals: list[tuple[int, str]]
) -> None:
    recorder = Recorder(tmp_path_factory.mktemp("telemetry"))
    ids = send(recorder, *[MARCH] * 5)
    expected: dict[str, str] = {}
    for moment, (which, value) in enumerate(arrivals):
        label(recorder, [ids[which]], value, received_us=moment)
        expected[ids[which]] = value
        if moment % 6 == 5:
            recorder.roll()
            compact(recorder.root)
    found = telemetry.labels(recorder.root)
    assert dict(zip(found["prediction_id"], found["label"], strict=True)) == expected


def test_an_empty_store_reads_as_an_empty_table(tmp_path: Path) -> None:
    assert telemetry.joined(tmp_path / "nowhere", MARCH, APRIL).empty
    assert telemetry.count_labels(tmp_path) == telemetry.LabelShare(0, 0, 0)


def test_selected_columns_come_with_id_and_time(recorder: Recorder) -> None:
    send(recorder, MARCH)
    assert list(telemetry.predictions(recorder.root, columns=["prediction"])) == ["prediction_id", "time", "prediction"]


def test_a_full_disk_leaves_the_log_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system writes a part of the record and then has no room: that part is taken back."""
    log = WriteAheadLog(tmp_path, "w")
    log.append(b"first", first_us=0, last_us=0)
    size = next(tmp_path.iterdir()).stat().st_size
    real = os.writev
    with monkeypatch.context() as patch:
        patch.setattr(os, "writev", lambda fd, data: real(fd, [data[0], data[1][:-1]]))
        with pytest.raises(Unwritable, match="No space left"):
            log.append(b"second", first_us=0, last_us=0)
        log.probe()
        failed = log.write_error
        assert failed is not None
    assert next(tmp_path.iterdir()).stat().st_size == size
    log.probe()
    assert log.write_error is None
    assert next(tmp_path.iterdir()).stat().st_size == size


def test_a_full_segment_is_let_go_by_the_next_sync(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, roll_bytes=1)
    ids = send(recorder, MARCH) + send(recorder, APRIL)
    assert compact(tmp_path) == 0
    recorder.maintain()
    assert compact(tmp_path) == 2
    assert telemetry.predictions(tmp_path)["prediction_id"].tolist() == ids


def test_a_later_value_that_is_no_label_does_not_hide_the_label_before(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    (given_id,) = recorder.new_ids([0])
    values: list[str | float] = [1, "late", float("inf")]
    for number, value in enumerate(values):
        recorder.labels([given_id], [value], received_us=number, times_us=[None])
    found = telemetry.labels(tmp_path, rule=LabelRule(task="binary"))
    assert found["label"].tolist() == [1]


def test_a_correction_is_no_repetition_whatever_the_two_values_are(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    (given_id,) = recorder.new_ids([0])
    for value in (-1.0, -2.0, -2):  # Python's hashes of -1.0 and -2.0 are equal
        assert recorder.labels([given_id], [value], received_us=1, times_us=[None]).duplicates == 0


@pytest.mark.parametrize("content", [b"", b"junk", b"PAR1junkPAR1"])
def test_a_damaged_part_stops_no_reader_of_the_others(tmp_path: Path, content: bytes) -> None:
    ids = []
    for _ in range(2):
        recorder = Recorder(tmp_path)
        ids += recorder.new_ids([0])
        recorder.labels(ids[-1:], [1], received_us=1, times_us=[None])
        recorder.roll()
        assert compact(tmp_path) == 1
    first, _ = sorted(tmp_path.rglob("*.parquet"))
    first.write_bytes(content)
    assert len(telemetry.labels(tmp_path)) == 1
    assert set(telemetry.labels(tmp_path)["prediction_id"]) < set(ids)
