"""Pairs: what both models said of the same rows, as evidence that may be lost but never lies; and what a rollout adds
to predictions."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from stores import telemetry
from stores.telemetry import Recorder, Unwritable, compact
from stores.telemetry.parquet import files as telemetry_files
from stores.telemetry.wal import streams
from tests.stores.killed import announced_by
from tests.stores.test_telemetry import label, send
from trimtab.rollout.config import RESERVED_COLUMNS

MARCH = datetime(2013, 3, 1, tzinfo=UTC)


def pair(recorder: Recorder, size: int = 2, *, rollout: str = "f1", **more: Any) -> bool:
    """One call to both models, with *size* rows."""
    times = [round((MARCH + timedelta(minutes=i)).timestamp() * 1e6) for i in range(size)]
    given = {
        "rollout": rollout,
        "champion": "a" * 64,
        "challenger": "b" * 64,
        "received_us": time.time_ns() // 1000,
        "ids": recorder.new_ids(times),
        "times_us": times,
        "by_challenger": [i % 2 == 1 for i in range(size)],
        "champion_prediction": np.linspace(0, 1, size),
        "challenger_prediction": np.linspace(0.5, 1, size),
        "champion_us": 50.0,
        "challenger_us": 70.0,
    }
    return recorder.pairs(**{**given, **more})


def backdate(path: Path, seconds: float) -> None:
    """Make *path* look as if it had been written that long ago."""
    then = time.time() - seconds
    os.utime(path, (then, then))


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path)


@pytest.mark.parametrize("compacted", [False, True], ids=["wal", "parquet"])
@pytest.mark.parametrize("kind", [list, np.array], ids=["lists", "arrays"])
def test_a_pair_says_what_both_models_said(recorder: Recorder, *, compacted: bool, kind: Any) -> None:
    ids = recorder.new_ids([0, 60_000_000])
    assert pair(
        recorder,
        ids=ids,
        received_us=7,
        errors=[None, "ValueError: no"],
        slices={"carrier": ["UA", None]},
        challenger_prediction=kind([0.25, np.nan]),
        by_challenger=kind([False, True]),
        times_us=kind([0, 60_000_000]),
    )
    if compacted:
        recorder.roll()
        assert compact(recorder.root) == 1
    found = telemetry.pairs(recorder.root)
    assert found["prediction_id"].tolist() == ids
    assert found["time"].tolist() == [pd.Timestamp(s, unit="s", tz="UTC") for s in (0, 60)]
    assert found["received_at"].tolist() == [pd.Timestamp(7, unit="us", tz="UTC")] * 2
    assert found["by_challenger"].tolist() == [False, True]
    assert found["champion_prediction"].tolist() == [0, 1]
    assert found["challenger_prediction"].fillna(-1).tolist() == [0.25, -1]
    assert found["error"].fillna("").tolist() == ["", "ValueError: no"]
    assert found["carrier"].fillna("").tolist() == ["UA", ""]
    shared = ["rollout", "champion", "challenger", "champion_us", "challenger_us", "rows_in_call"]
    assert found[shared].drop_duplicates().values.tolist() == [["f1", "a" * 64, "b" * 64, 50.0, 70.0, 2]]


@pytest.mark.parametrize("compacted", [False, True], ids=["wal", "parquet"])
def test_probabilities_of_both_are_kept_and_those_of_one_that_gave_none_are_missing(
    recorder: Recorder, *, compacted: bool
) -> None:
    pair(recorder, champion_probabilities=[[0.1, 0.9]] * 2, challenger_probabilities=[[1.0, 0.0], None])
    pair(recorder, champion_probabilities=np.array([[0.25, 0.75]] * 2), challenger_probabilities=None)
    if compacted:
        recorder.roll()
        compact(recorder.root)
    found = telemetry.pairs(recorder.root)
    assert [list(v) for v in found["champion_probabilities"]] == [[0.1, 0.9]] * 2 + [[0.25, 0.75]] * 2
    assert [v if v is None else list(v) for v in found["challenger_probabilities"]] == [[1.0, 0.0], None, None, None]


def test_a_challenger_that_never_gave_probabilities_has_the_column(recorder: Recorder) -> None:
    pair(recorder, champion_probabilities=[[0.1, 0.9]] * 2)
    assert telemetry.pairs(recorder.root)["challenger_probabilities"].isna().all()


def test_a_slice_column_named_like_a_column_of_pairs_does_not_replace_it(recorder: Recorder) -> None:
    pair(recorder, slices={"error": ["x", "y"], "carrier": ["UA", "AA"]})
    found = telemetry.pairs(recorder.root)
    assert found["error"].isna().all()
    assert found["slice:error"].tolist() == ["x", "y"]
    assert "error" in telemetry.PAIR_COLUMNS


@pytest.mark.parametrize("compacted", [False, True], ids=["wal", "parquet"])
def test_only_the_asked_rollout_is_read(recorder: Recorder, *, compacted: bool) -> None:
    for rollout in ("f1", "f2", "f3"):
        pair(recorder, rollout=rollout)
    if compacted:
        recorder.roll()
        compact(recorder.root)
    assert telemetry.pairs(recorder.root, rollout="f2")["rollout"].tolist() == ["f2", "f2"]
    assert telemetry.pairs(recorder.root, rollout="f9").empty


@pytest.mark.parametrize("compacted", [False, True], ids=["wal", "parquet"])
def test_since_selects_by_arrival(tmp_path: Path, *, compacted: bool) -> None:
    """To the microsecond, also within one file."""
    now = time.time_ns() // 1000
    recorder = Recorder(tmp_path)
    ids = send(recorder, MARCH, MARCH)
    for at, name in zip((now - 1, now), ids, strict=True):
        pair(recorder, received_us=at)
        label(recorder, [name], 1, received_us=at)
    if compacted:
        recorder.roll()
        assert compact(tmp_path) == 3
    since = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=now)
    assert telemetry.pairs(tmp_path, since=since)["received_at"].unique().tolist() == [pd.Timestamp(since)]
    assert telemetry.labels(tmp_path, since=since)["prediction_id"].tolist() == ids[1:]
    assert len(telemetry.labels(tmp_path)) == 2


@pytest.mark.parametrize("compacted", [False, True], ids=["wal", "parquet"])
def test_what_was_written_before_is_not_even_opened(tmp_path: Path, *, compacted: bool) -> None:
    """An old file could be broken and nobody would notice: that is what makes a look at a running rollout cheap."""
    old = Recorder(tmp_path)
    pair(old)
    label(old, send(old, MARCH), 1)
    old.close()
    for stream in (streams.PAIRS, streams.LABELS):
        (segment,) = streams.segments(tmp_path, stream).values()
        backdate(segment, 3600)
    compact(tmp_path) if compacted else None
    for stream in (streams.PAIRS, streams.LABELS):
        files = [p.path for p in telemetry_files.parts(tmp_path, stream)] or list(
            streams.segments(tmp_path, stream).values()
        )
        files[0].chmod(0)
        files[0].write_bytes(b"no parquet")
        backdate(files[0], 3600)
    recorder = Recorder(tmp_path)
    since = datetime.now(UTC) - timedelta(minutes=5)
    pair(recorder)
    assert len(telemetry.pairs(tmp_path, since=since)) == 2
    assert telemetry.labels(tmp_path, since=since).empty


def test_a_part_is_as_old_as_its_rows_not_as_its_compaction(recorder: Recorder) -> None:
    pair(recorder)
    recorder.close()
    (segment,) = streams.segments(recorder.root, streams.PAIRS).values()
    backdate(segment, 7200)
    compact(recorder.root)
    (part,) = telemetry_files.parts(recorder.root, streams.PAIRS)
    assert time.time() - part.path.stat().st_mtime == pytest.approx(7200, abs=60)


def test_a_full_disk_loses_pairs_countably_and_predictions_loudly(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pair(recorder)
    real = os.writev
    with monkeypatch.context() as patch:
        patch.setattr(os, "writev", lambda fd, data: real(fd, [data[0], data[1][:-1]]))
        assert not pair(recorder, 4)
        assert "No space left" in str(recorder.pairs_failure)
        with pytest.raises(Unwritable):
            send(recorder, MARCH)
    assert recorder.counters.lost_pairs == 4
    assert pair(recorder)
    assert recorder.pairs_failure is None
    assert recorder.counters.pairs == len(telemetry.pairs(recorder.root)) == 4
    assert telemetry.predictions(recorder.root).empty


@pytest.mark.parametrize(
    "wrong",
    [{"challenger_prediction": [0.5]}, {"slices": {"carrier": ["UA"]}}, {"by_challenger": [True]}, {"ids": ["a", "b"]}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_pairs_that_could_not_be_read_again_are_not_written(recorder: Recorder, wrong: dict[str, Any]) -> None:
    assert not pair(recorder, **wrong)
    assert recorder.counters.lost_pairs == 2
    assert recorder.pairs_failure
    assert telemetry.pairs(recorder.root).empty


def test_counters_say_what_was_written_and_how_long_it_took(recorder: Recorder) -> None:
    ids = send(recorder, MARCH, MARCH, MARCH)
    pair(recorder)
    label(recorder, ids[:1], 1)
    seen = recorder.counters
    assert (seen.predictions, seen.pairs, seen.labels, seen.lost_pairs, seen.records) == (3, 2, 1, 0, 3)
    assert 0 < seen.longest_s <= seen.writing_s < 5


def test_a_killed_writer_leaves_all_pairs_that_it_announced(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from tests.stores.test_telemetry_pairs import pair; from stores.telemetry import Recorder\n"
        "r = Recorder(Path(sys.argv[1]), roll_bytes=5000)\n"
        "while True: ids = r.take_ids([0, 0]); pair(r, ids=ids); print(*ids, flush=True); r.maintain()\n"
    )
    ids = set(announced_by(script, tmp_path))
    for _ in range(2):
        found = telemetry.pairs(tmp_path)["prediction_id"]
        assert found.is_unique
        assert ids <= set(found)
        assert len(found) <= len(ids) + 4
        compact(tmp_path)


@pytest.mark.parametrize("how", ["torn", "damaged"])
def test_a_broken_record_hides_no_other_pair(recorder: Recorder, how: str) -> None:
    ids = [recorder.new_ids([0, 1]) for _ in range(3)]
    ends = []
    for names in ids:
        pair(recorder, ids=names)
        ends.append(sum(p.stat().st_size for p in streams.segments(recorder.root, streams.PAIRS).values()))
    recorder.close()
    (segment,) = streams.segments(recorder.root, streams.PAIRS).values()
    content = segment.read_bytes()
    middle = (ends[0] + ends[1]) // 2
    broken = content[:middle] + (content[ends[1] :] if how == "torn" else b"?" + content[middle + 1 :])
    segment.write_bytes(broken)
    for _ in range(2):
        assert set(telemetry.pairs(recorder.root)["prediction_id"]) == {*ids[0], *ids[2]}
        compact(recorder.root)


@pytest.mark.parametrize("compacted", [False, True], ids=["wal", "parquet"])
def test_a_prediction_says_in_which_rollout_and_how_probably_its_arm_was_chosen(
    recorder: Recorder, *, compacted: bool
) -> None:
    times = [0, 1]
    ids = recorder.new_ids(times)
    for name, arm, chance in zip(ids, ("champion", "challenger"), (0.95, 0.05), strict=True):
        given = recorder.predictions(
            release="r", arm=arm, received_us=1, times_us=[0], numbers={}, texts={}, prediction=[0.5],
            rollout="f1", propensity=chance, ids=[name],
        )  # fmt: skip
        assert given == [name]
    (alone,) = send(recorder, MARCH)
    if compacted:
        recorder.roll()
        compact(recorder.root)
    found = telemetry.predictions(recorder.root).set_index("prediction_id")
    assert found.loc[ids, ["arm", "rollout", "propensity"]].values.tolist() == [
        ["champion", "f1", 0.95],
        ["challenger", "f1", 0.05],
    ]
    assert found.loc[alone, "propensity"] == 1
    assert found["rollout"].isna().tolist() == [False, False, True]


def test_an_empty_store_has_no_pairs(tmp_path: Path) -> None:
    found = telemetry.pairs(tmp_path / "nowhere", rollout="f1", since=MARCH)
    assert found.empty
    assert set(found) <= telemetry.PAIR_COLUMNS


def test_no_slice_can_have_a_name_that_pairs_need_for_themselves() -> None:
    assert telemetry.PAIR_COLUMNS <= RESERVED_COLUMNS
