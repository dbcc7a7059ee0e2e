"""Many small objects of telemetry become few: whoever dies or reads meanwhile, each row is seen once."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from stores import telemetry
from stores.object_store.store import AccessDenied, ObjectInfo, ObjectStore
from stores.telemetry import Recorder, SharedTelemetry
from stores.telemetry.parquet import files
from stores.telemetry.remote import compaction, replica
from stores.telemetry.remote.compaction import compact_remote
from stores.telemetry.remote.upload import Uploader
from stores.telemetry.wal import streams
from tests.stores.machines import die_at, expected, fetched, keys, record, seen, writers
from tests.stores.test_telemetry import MARCH, send

GONE = -60.0  # seconds: every writer has been quiet for longer


@pytest.fixture
def fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three of a level become one of the next."""
    for module in (replica, compaction):
        monkeypatch.setattr(module, "FANOUT", 3)


@pytest.mark.usefixtures("fewer")
def test_many_objects_become_few_and_nothing_that_a_reader_sees_changes(
    here: SharedTelemetry, elsewhere: SharedTelemetry
) -> None:
    ids = record(here, 13)
    Uploader(here).upload_pending()
    before = telemetry.joined(elsewhere)
    for stream in streams.STREAMS:
        compact_remote(here, stream, own=writers(here), is_all=False)
    found = [files.parse_part(key.rsplit("/", 1)[1], Path()) for key in keys(here.objects)]
    assert [part and (part.number, part.last_number) for part in found] == [(9, 11), (0, 8), (12, 12)]
    pd.testing.assert_frame_equal(telemetry.joined(elsewhere), before)
    assert seen(here) == seen(elsewhere) == expected(ids)
    assert len(telemetry.predictions(elsewhere, MARCH, MARCH + timedelta(hours=1))) == 1


@pytest.mark.usefixtures("fewer")
def test_of_a_writer_that_is_gone_the_rest_is_merged_and_what_comes_late_still_counts(
    here: SharedTelemetry, elsewhere: SharedTelemetry
) -> None:
    recorder = Recorder(here.root)
    ids = record(here, 8, recorder=recorder)
    Uploader(here).upload_pending()
    assert compact_remote(elsewhere, streams.PREDICTIONS) == 0, "it has just written something"
    compact_remote(elsewhere, streams.PREDICTIONS, quiet_s=GONE)
    assert len(keys(here.objects)) == 2
    ids += record(here, 3, recorder=recorder)
    Uploader(here).upload_pending()
    assert sorted(telemetry.predictions(elsewhere)["prediction_id"]) == sorted(ids)
    compact_remote(elsewhere, streams.PREDICTIONS, quiet_s=GONE)
    assert len(keys(here.objects)) == 2
    assert sorted(telemetry.predictions(here)["prediction_id"]) == sorted(ids)


@pytest.mark.usefixtures("fewer")
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", ["put", "rename", "remove"])
def test_tidying_that_dies_loses_and_doubles_nothing(
    here: SharedTelemetry, elsewhere: SharedTelemetry, monkeypatch: pytest.MonkeyPatch, step: str, when: str
) -> None:
    ids = record(here, 3)
    Uploader(here).upload_pending()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        die_at(patch, step, when)
        compact_remote(here, streams.PREDICTIONS, quiet_s=GONE)
    assert seen(here) == seen(elsewhere) == expected(ids)
    compact_remote(elsewhere, streams.PREDICTIONS, quiet_s=GONE)
    assert len(keys(here.objects)) == 1
    assert seen(here) == seen(elsewhere) == expected(ids)


@pytest.mark.usefixtures("fewer")
def test_a_part_that_is_uploaded_again_after_it_was_merged_counts_once(
    here: SharedTelemetry, elsewhere: SharedTelemetry
) -> None:
    """A process that died between the upload and its note of it, and was away while others tidied."""
    ids = record(here, 3)
    Uploader(here).upload_pending()
    compact_remote(elsewhere, streams.PREDICTIONS, quiet_s=GONE)
    again = files.fetched_folder(here.root, streams.PREDICTIONS)
    for path in list(again.iterdir()):
        path.replace(files.parts_folder(here.root, streams.PREDICTIONS) / path.name)
    Uploader(here).upload_pending()
    assert len(keys(here.objects)) == 4
    assert seen(here) == seen(elsewhere) == expected(ids)
    compact_remote(elsewhere, streams.PREDICTIONS, quiet_s=GONE)
    assert len(keys(here.objects)) == 1
    assert seen(here) == seen(elsewhere) == expected(ids)


@pytest.mark.usefixtures("fewer")
def test_whoever_lists_while_objects_are_merged_away_sees_each_row_once(
    here: SharedTelemetry, elsewhere: SharedTelemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After every single object that a listing gives, somebody else merges all that there is."""
    ids = record(here, 9)
    Uploader(here).upload_pending()
    tidier, really = SharedTelemetry(elsewhere.root.with_name("tidier"), here.objects), ObjectStore.list
    steps = iter([3, 9])

    def listing(objects: ObjectStore, prefix: str = "", **options: Any) -> Iterator[ObjectInfo]:
        for found in really(objects, prefix, **options):
            yield found
            if objects is reader.objects and (upto := next(steps, None)) is not None:
                level = 1 if upto == 3 else 2
                parts = compaction._compact_stream(tidier, streams.PREDICTIONS)
                for block in list(compaction._blocks(parts, level, {parts[0].writer}, set())):
                    compaction._merge(tidier, streams.PREDICTIONS, block)

    reader = SharedTelemetry(elsewhere.root, ObjectStore(here.objects.url, endpoint=here.objects.endpoint))
    monkeypatch.setattr(ObjectStore, "list", listing)
    assert sorted(telemetry.predictions(reader)["prediction_id"]) == sorted(ids)
    assert next(steps, None) is None
    assert len(keys(here.objects)) == 1


@pytest.mark.usefixtures("fewer")
def test_readers_beside_several_that_ship_and_tidy_see_each_row_once(
    tmp_path: Path, here: SharedTelemetry, elsewhere: SharedTelemetry
) -> None:
    recorder, over, known = Recorder(here.root), threading.Event(), list[str]()
    troubles: list[str] = []

    def read(number: int) -> None:
        place = SharedTelemetry(tmp_path / f"reader-{number}", here.objects)
        while not over.is_set():
            before = set(known)
            found = telemetry.predictions(place)["prediction_id"].tolist()
            if not before <= set(found) or len(set(found)) != len(found):
                troubles.append(f"{len(before - set(found))} missing, {len(found) - len(set(found))} twice")

    def compact_remotely(number: int) -> None:
        place = SharedTelemetry(tmp_path / f"tidier-{number}", here.objects)
        while not over.is_set():
            compact_remote(place, streams.PREDICTIONS, own=writers(place), is_all=False)

    with ThreadPoolExecutor(4) as pool:
        others = [pool.submit(work, number) for number in range(2) for work in (read, compact_remotely)]
        uploader = Uploader(here)
        for hour in range(20):
            fresh = send(recorder, MARCH + timedelta(hours=hour))
            recorder.roll()
            uploader.upload_pending()
            known += fresh
        over.set()
        for other in others:
            other.result()
    assert not troubles
    assert sorted(telemetry.predictions(elsewhere)["prediction_id"]) == sorted(known)


@pytest.mark.usefixtures("fewer")
def test_where_nothing_may_be_deleted_in_the_store_the_folder_is_kept_small_all_the_same(
    here: SharedTelemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = record(here, 3)
    uploader = Uploader(here, compact_own_s=0)
    uploader.upload_pending()

    def refuse(self: ObjectStore, _: object) -> None:
        raise AccessDenied(self.url, "these credentials may not do this")

    monkeypatch.setattr(ObjectStore, "remove", refuse)
    with pytest.raises(AccessDenied):
        uploader.compact_if_due()
    assert fetched(here)
    for name in fetched(here):
        path = files.fetched_folder(here.root, streams.PREDICTIONS) / name
        os.utime(path, (time.time() - 2 * 3600, path.stat().st_mtime))
    with pytest.raises(AccessDenied):
        uploader.compact_if_due()
    assert not fetched(here)
    assert seen(here) == expected(ids)
