"""Telemetry in a store: what several machines recorded, each row once, whenever one of them dies."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from stores import rollout_observation, telemetry
from stores.object_store.s3 import parse_url
from stores.object_store.store import ChecksumMismatch, ObjectStore, StoreUnavailable
from stores.telemetry import Recorder, SharedTelemetry
from stores.telemetry.parquet import compaction, files
from stores.telemetry.remote.upload import Uploader
from stores.telemetry.wal import streams
from tests.stores.machines import die_at, expected, fetched, keys, record, seen
from tests.stores.proxy import Proxy
from tests.stores.seaweed import Seaweed
from tests.stores.test_telemetry import APRIL, MARCH, MAY, send


def test_what_one_machine_ships_another_reads_and_nobody_reads_it_twice(
    here: SharedTelemetry, elsewhere: SharedTelemetry
) -> None:
    ids = record(here, 2)
    before = telemetry.joined(here)
    assert Uploader(here).upload_pending() == 6
    pd.testing.assert_frame_equal(telemetry.joined(here), before)
    pd.testing.assert_frame_equal(telemetry.joined(elsewhere), before)
    assert seen(elsewhere) == seen(here) == expected(ids)
    assert not files.pending_bytes(here.root, with_parts=True)
    assert Uploader(here).upload_pending() == 0


def test_several_machines_records_are_read_together(
    tmp_path: Path, objects: ObjectStore, elsewhere: SharedTelemetry
) -> None:
    ids = []
    for number in range(3):
        machine = SharedTelemetry(tmp_path / str(number), objects)
        ids += record(machine, 2)
        Uploader(machine).upload_pending()
    open_here = send(Recorder(elsewhere.root), MARCH)
    assert sorted(telemetry.predictions(elsewhere)["prediction_id"]) == sorted(ids + open_here)


def test_only_what_is_asked_for_is_fetched(here: SharedTelemetry, elsewhere: SharedTelemetry) -> None:
    recorder = Recorder(here.root)
    for start in (MARCH, APRIL, MAY):
        record(here, 1, start=start, recorder=recorder)
    Uploader(here).upload_pending()
    assert len(telemetry.joined(elsewhere, APRIL, MAY)) == 1
    assert len(fetched(elsewhere)) == len(fetched(elsewhere, streams.LABELS)) == 1
    assert telemetry.pairs(elsewhere, since=datetime.now(UTC) + timedelta(minutes=1)).empty
    assert not fetched(elsewhere, streams.PAIRS)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", ["put", "replace", "unlink"])
def test_an_upload_that_dies_loses_and_doubles_nothing(
    here: SharedTelemetry, elsewhere: SharedTelemetry, monkeypatch: pytest.MonkeyPatch, step: str, when: str
) -> None:
    ids = record(here, 2)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        die_at(patch, step, when)
        Uploader(here).upload_pending()
    assert seen(here) == expected(ids)
    Uploader(here).upload_pending()
    assert seen(here) == seen(elsewhere) == expected(ids)
    assert len(keys(here.objects)) == 2


def test_what_is_forgotten_is_gone_from_the_store_and_from_every_machine(
    here: SharedTelemetry, elsewhere: SharedTelemetry
) -> None:
    recorder = Recorder(here.root)
    record(here, 2, recorder=recorder)
    Uploader(here).upload_pending()
    assert telemetry.delete_before(elsewhere, datetime(2014, 1, 1)) == 0, "it has just arrived"
    ids = record(here, 1, start=datetime.now(UTC) + timedelta(days=2), recorder=recorder)
    Uploader(here).upload_pending()
    time.sleep(1.1)  # the store's times are whole seconds
    assert len(telemetry.predictions(elsewhere)) == 3
    assert telemetry.delete_before(elsewhere, datetime.now(UTC)) == 2 * 2 + 3  # pairs are all of 2013
    assert telemetry.predictions(elsewhere)["prediction_id"].tolist() == ids
    assert telemetry.predictions(here)["prediction_id"].tolist() == ids


def test_what_nobody_uses_is_not_kept_in_the_folder(here: SharedTelemetry) -> None:
    ids = record(here, 2)
    Uploader(here).upload_pending()
    here.prune()
    assert len(fetched(here)) == 2, "it has just been uploaded"
    here.prune(unused_s=-1)
    assert not fetched(here)
    assert seen(here) == expected(ids)


def test_a_damaged_object_is_named(seaweed: Seaweed, here: SharedTelemetry, elsewhere: SharedTelemetry) -> None:
    record(here, 1)
    Uploader(here).upload_pending()
    bucket, prefix = parse_url(here.objects.url)
    key = f"{prefix}{keys(here.objects)[0]}"
    noted = seaweed.client.head_object(Bucket=bucket, Key=key)["Metadata"]
    seaweed.client.put_object(Bucket=bucket, Key=key, Body=b"no parquet", Metadata=noted)
    with pytest.raises(ChecksumMismatch, match=key):
        telemetry.predictions(elsewhere)


def test_a_segment_that_cannot_be_read_keeps_no_other_stream_from_being_uploaded(
    here: SharedTelemetry, elsewhere: SharedTelemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = record(here, 1)

    def broken(_: Any) -> None:
        raise TypeError("not what it was")

    with monkeypatch.context() as patch, pytest.raises(TypeError):
        patch.setitem(compaction._CONVERT, streams.LABELS, broken)
        Uploader(here).upload_pending()
    assert sorted(telemetry.pairs(elsewhere)["prediction_id"]) == ids
    Uploader(here).upload_pending()
    assert seen(elsewhere) == expected(ids)


def test_what_others_put_beside_it_is_no_telemetry(here: SharedTelemetry) -> None:
    for name in ("notes.txt", "backup.parquet", "a.b.c.parquet"):
        here.objects.put(f"telemetry/predictions/parts/{name}", b"")
    assert telemetry.predictions(here).empty


def test_without_the_store_readers_say_so_and_rows_wait(
    proxy: Proxy, objects: ObjectStore, tmp_path: Path, elsewhere: SharedTelemetry
) -> None:
    cut_off = SharedTelemetry(tmp_path / "cut-off", ObjectStore(objects.url, endpoint=proxy.endpoint, attempts=1))
    ids = record(cut_off, 2)
    proxy.leave()
    with pytest.raises(StoreUnavailable):
        Uploader(cut_off).upload_pending()
    with pytest.raises(OSError, match="s3://"):
        telemetry.predictions(cut_off)
    assert files.pending_bytes(cut_off.root, with_parts=True) > 0
    assert files.oldest_pending_s(cut_off.root, with_parts=True) > 0
    proxy.come_back()
    Uploader(cut_off).upload_pending()
    assert seen(elsewhere) == expected(ids)


def test_what_there_is_to_see_of_a_rollout_changes_when_another_machine_ships(
    here: SharedTelemetry, elsewhere: SharedTelemetry
) -> None:
    before = rollout_observation.telemetry_fingerprint(elsewhere)
    record(here, 1)
    assert rollout_observation.telemetry_fingerprint(elsewhere) == before
    Uploader(here).upload_pending()
    time.sleep(1.1)
    assert rollout_observation.telemetry_fingerprint(elsewhere) != before
