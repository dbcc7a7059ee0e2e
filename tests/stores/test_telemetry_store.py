"""Telemetry in a store: what several machines recorded, each row once, whenever one of them dies or tidies up."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from stores import evidence, telemetry
from stores.objects import Damaged, Found, Objects, Unreachable
from stores.s3 import address
from stores.telemetry import Mirror, Recorder, layout, mirror, tidying
from stores.telemetry.shipper import Shipper
from stores.telemetry.shipping import Shipping
from stores.telemetry.tidying import tidy
from tests.stores.proxy import Proxy, proxied
from tests.stores.seaweed import Seaweed
from tests.stores.test_telemetry import APRIL, MARCH, MAY, label, send
from tests.stores.test_telemetry_pairs import pair

GONE = -60.0  # seconds: every writer has been quiet for longer


@pytest.fixture
def fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three of a level become one of the next."""
    for module in (mirror, tidying):
        monkeypatch.setattr(module, "FAN", 3)


@pytest.fixture
def proxy(seaweed: Seaweed) -> Iterator[Proxy]:
    with proxied(seaweed.port) as one:
        yield one


@pytest.fixture
def objects(seaweed: Seaweed) -> Objects:
    return seaweed.objects()


@pytest.fixture
def here(tmp_path: Path, objects: Objects) -> Mirror:
    """The machine that records."""
    return Mirror(tmp_path / "here", objects)


@pytest.fixture
def elsewhere(tmp_path: Path, objects: Objects) -> Mirror:
    """Another machine."""
    return Mirror(tmp_path / "elsewhere", objects)


def record(place: Mirror, size: int, *, start: datetime = MARCH, recorder: Recorder | None = None) -> list[str]:
    """As many segments of every stream, an hour of data apart, that belong to one writer."""
    recorder, ids = recorder or Recorder(place.root), list[str]()
    for hour in range(size):
        ids += send(recorder, start + timedelta(hours=hour))
        pair(recorder, 1, ids=ids[-1:], rollout=f"f{hour}")
        label(recorder, ids[-1:], hour, received_us=hour)
        recorder.roll()
    return ids


def seen(place: Mirror) -> list[list[str]]:
    """Ids in all three streams, with what is there twice."""
    streams = (telemetry.predictions(place), telemetry.pairs(place), telemetry.tally(place))
    first, second, third = streams
    return [sorted(first["prediction_id"]), sorted(second["prediction_id"]), [str(third.rows)]]


def expected(ids: list[str]) -> list[list[str]]:
    return [sorted(ids), sorted(ids), [str(len(ids))]]


def keys(objects: Objects, stream: str = layout.PREDICTIONS) -> list[str]:
    return [found.key for found in objects.list(f"telemetry/{stream}/")]


def fetched(place: Mirror, stream: str = layout.PREDICTIONS) -> list[str]:
    folder = layout.fetched_folder(place.root, stream)
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def writers(place: Mirror) -> set[str]:
    return {part.writer for part in place.listed(layout.PREDICTIONS)}


def test_what_one_machine_ships_another_reads_and_nobody_reads_it_twice(here: Mirror, elsewhere: Mirror) -> None:
    ids = record(here, 2)
    before = telemetry.joined(here)
    assert Shipping(here).ship() == 6
    pd.testing.assert_frame_equal(telemetry.joined(here), before)
    pd.testing.assert_frame_equal(telemetry.joined(elsewhere), before)
    assert seen(elsewhere) == seen(here) == expected(ids)
    assert not layout.waiting_bytes(here.root, with_parts=True)
    assert Shipping(here).ship() == 0


def test_several_machines_records_are_read_together(tmp_path: Path, objects: Objects, elsewhere: Mirror) -> None:
    ids = []
    for number in range(3):
        machine = Mirror(tmp_path / str(number), objects)
        ids += record(machine, 2)
        Shipping(machine).ship()
    open_here = send(Recorder(elsewhere.root), MARCH)
    assert sorted(telemetry.predictions(elsewhere)["prediction_id"]) == sorted(ids + open_here)


def test_only_what_is_asked_for_is_fetched(here: Mirror, elsewhere: Mirror) -> None:
    recorder = Recorder(here.root)
    for start in (MARCH, APRIL, MAY):
        record(here, 1, start=start, recorder=recorder)
    Shipping(here).ship()
    assert len(telemetry.joined(elsewhere, APRIL, MAY)) == 1
    assert len(fetched(elsewhere)) == len(fetched(elsewhere, layout.LABELS)) == 1
    assert telemetry.pairs(elsewhere, since=datetime.now(UTC) + timedelta(minutes=1)).empty
    assert not fetched(elsewhere, layout.PAIRS)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", ["put", "replace", "unlink"])
def test_shipping_that_dies_loses_and_doubles_nothing(
    here: Mirror, elsewhere: Mirror, monkeypatch: pytest.MonkeyPatch, step: str, when: str
) -> None:
    ids = record(here, 2)
    kind: Any = Objects if step == "put" else Path
    really = getattr(kind, step)

    def die(*args: Any, **options: Any) -> None:
        if when == "after":
            really(*args, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(kind, step, die)
        Shipping(here).ship()
    assert seen(here) == expected(ids)
    Shipping(here).ship()
    assert seen(here) == seen(elsewhere) == expected(ids)
    assert len(keys(here.objects)) == 2


@pytest.mark.usefixtures("fewer")
def test_many_objects_become_few_and_nothing_that_a_reader_sees_changes(here: Mirror, elsewhere: Mirror) -> None:
    ids = record(here, 13)
    Shipping(here).ship()
    before = telemetry.joined(elsewhere)
    for stream in layout.STREAMS:
        tidy(here, stream, own=writers(here), is_all=False)
    found = [layout.part_named(key.rsplit("/", 1)[1], Path()) for key in keys(here.objects)]
    assert [part and (part.number, part.last_number) for part in found] == [(9, 11), (0, 8), (12, 12)]
    pd.testing.assert_frame_equal(telemetry.joined(elsewhere), before)
    assert seen(here) == seen(elsewhere) == expected(ids)
    assert len(telemetry.predictions(elsewhere, MARCH, MARCH + timedelta(hours=1))) == 1


@pytest.mark.usefixtures("fewer")
def test_of_a_writer_that_is_gone_the_rest_is_merged_and_what_comes_late_still_counts(
    here: Mirror, elsewhere: Mirror
) -> None:
    recorder = Recorder(here.root)
    ids = record(here, 8, recorder=recorder)
    Shipping(here).ship()
    assert tidy(elsewhere, layout.PREDICTIONS) == 0, "it has just written something"
    tidy(elsewhere, layout.PREDICTIONS, quiet_s=GONE)
    assert len(keys(here.objects)) == 2
    ids += record(here, 3, recorder=recorder)
    Shipping(here).ship()
    assert sorted(telemetry.predictions(elsewhere)["prediction_id"]) == sorted(ids)
    tidy(elsewhere, layout.PREDICTIONS, quiet_s=GONE)
    assert len(keys(here.objects)) == 2
    assert sorted(telemetry.predictions(here)["prediction_id"]) == sorted(ids)


@pytest.mark.usefixtures("fewer")
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", ["put", "rename", "remove"])
def test_tidying_that_dies_loses_and_doubles_nothing(
    here: Mirror, elsewhere: Mirror, monkeypatch: pytest.MonkeyPatch, step: str, when: str
) -> None:
    ids = record(here, 3)
    Shipping(here).ship()
    kind: Any = Path if step == "rename" else Objects
    really = getattr(kind, step)

    def die(*args: Any, **options: Any) -> None:
        if when == "after":
            really(*args, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(kind, step, die)
        tidy(here, layout.PREDICTIONS, quiet_s=GONE)
    assert seen(here) == seen(elsewhere) == expected(ids)
    tidy(elsewhere, layout.PREDICTIONS, quiet_s=GONE)
    assert len(keys(here.objects)) == 1
    assert seen(here) == seen(elsewhere) == expected(ids)


@pytest.mark.usefixtures("fewer")
def test_a_part_that_is_shipped_again_after_it_was_merged_counts_once(here: Mirror, elsewhere: Mirror) -> None:
    """A process that died between the upload and its note of it, and was away while others tidied."""
    ids = record(here, 3)
    Shipping(here).ship()
    tidy(elsewhere, layout.PREDICTIONS, quiet_s=GONE)
    again = layout.fetched_folder(here.root, layout.PREDICTIONS)
    for path in list(again.iterdir()):
        path.replace(layout.parts_folder(here.root, layout.PREDICTIONS) / path.name)
    Shipping(here).ship()
    assert len(keys(here.objects)) == 4
    assert seen(here) == seen(elsewhere) == expected(ids)
    tidy(elsewhere, layout.PREDICTIONS, quiet_s=GONE)
    assert len(keys(here.objects)) == 1
    assert seen(here) == seen(elsewhere) == expected(ids)


@pytest.mark.usefixtures("fewer")
def test_whoever_lists_while_objects_are_merged_away_sees_each_row_once(
    here: Mirror, elsewhere: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After every single object that a listing gives, somebody else merges all that there is."""
    ids = record(here, 9)
    Shipping(here).ship()
    tidier, really = Mirror(elsewhere.root.with_name("tidier"), here.objects), Objects.list
    steps = iter([3, 9])

    def listing(objects: Objects, prefix: str = "", **options: Any) -> Iterator[Found]:
        for found in really(objects, prefix, **options):
            yield found
            if objects is reader.objects and (upto := next(steps, None)) is not None:
                level = 1 if upto == 3 else 2
                parts = tidying._tidied(tidier, layout.PREDICTIONS)
                for block in list(tidying._blocks(parts, level, {parts[0].writer}, set())):
                    tidying._merge(tidier, layout.PREDICTIONS, block)

    reader = Mirror(elsewhere.root, Objects(here.objects.url, endpoint=here.objects.endpoint))
    monkeypatch.setattr(Objects, "list", listing)
    assert sorted(telemetry.predictions(reader)["prediction_id"]) == sorted(ids)
    assert next(steps, None) is None
    assert len(keys(here.objects)) == 1


@pytest.mark.usefixtures("fewer")
def test_readers_beside_several_that_ship_and_tidy_see_each_row_once(
    tmp_path: Path, here: Mirror, elsewhere: Mirror
) -> None:
    recorder, over, known = Recorder(here.root), threading.Event(), list[str]()
    troubles: list[str] = []

    def read(number: int) -> None:
        place = Mirror(tmp_path / f"reader-{number}", here.objects)
        while not over.is_set():
            before = set(known)
            found = telemetry.predictions(place)["prediction_id"].tolist()
            if not before <= set(found) or len(set(found)) != len(found):
                troubles.append(f"{len(before - set(found))} missing, {len(found) - len(set(found))} twice")

    def tidy_up(number: int) -> None:
        place = Mirror(tmp_path / f"tidier-{number}", here.objects)
        while not over.is_set():
            tidy(place, layout.PREDICTIONS, own=writers(place), is_all=False)

    with ThreadPoolExecutor(4) as pool:
        others = [pool.submit(work, number) for number in range(2) for work in (read, tidy_up)]
        shipping = Shipping(here)
        for hour in range(20):
            fresh = send(recorder, MARCH + timedelta(hours=hour))
            recorder.roll()
            shipping.ship()
            known += fresh
        over.set()
        for other in others:
            other.result()
    assert not troubles
    assert sorted(telemetry.predictions(elsewhere)["prediction_id"]) == sorted(known)


def test_what_is_forgotten_is_gone_from_the_store_and_from_every_machine(here: Mirror, elsewhere: Mirror) -> None:
    recorder = Recorder(here.root)
    record(here, 2, recorder=recorder)
    Shipping(here).ship()
    assert telemetry.forget(elsewhere, datetime(2014, 1, 1)) == 0, "it has just arrived"
    ids = record(here, 1, start=datetime.now(UTC) + timedelta(days=2), recorder=recorder)
    Shipping(here).ship()
    time.sleep(1.1)  # the store's times are whole seconds
    assert len(telemetry.predictions(elsewhere)) == 3
    assert telemetry.forget(elsewhere, datetime.now(UTC)) == 2 * 2 + 3  # pairs are all of 2013
    assert telemetry.predictions(elsewhere)["prediction_id"].tolist() == ids
    assert telemetry.predictions(here)["prediction_id"].tolist() == ids


def test_what_nobody_uses_is_not_kept_in_the_folder(here: Mirror) -> None:
    ids = record(here, 2)
    Shipping(here).ship()
    here.prune()
    assert len(fetched(here)) == 2, "it has just been shipped"
    here.prune(unused_s=-1)
    assert not fetched(here)
    assert seen(here) == expected(ids)


def test_a_damaged_object_is_named(seaweed: Seaweed, here: Mirror, elsewhere: Mirror) -> None:
    record(here, 1)
    Shipping(here).ship()
    bucket, prefix = address(here.objects.url)
    key = f"{prefix}{keys(here.objects)[0]}"
    noted = seaweed.client.head_object(Bucket=bucket, Key=key)["Metadata"]
    seaweed.client.put_object(Bucket=bucket, Key=key, Body=b"no parquet", Metadata=noted)
    with pytest.raises(Damaged, match=key):
        telemetry.predictions(elsewhere)


def test_what_others_put_beside_it_is_no_telemetry(here: Mirror) -> None:
    for name in ("notes.txt", "backup.parquet", "a.b.c.parquet"):
        here.objects.put(f"telemetry/predictions/parts/{name}", b"")
    assert telemetry.predictions(here).empty


def test_without_the_store_readers_say_so_and_rows_wait(
    proxy: Proxy, objects: Objects, tmp_path: Path, elsewhere: Mirror
) -> None:
    cut_off = Mirror(tmp_path / "cut-off", Objects(objects.url, endpoint=proxy.endpoint, attempts=1))
    ids = record(cut_off, 2)
    proxy.leave()
    with pytest.raises(Unreachable):
        Shipping(cut_off).ship()
    with pytest.raises(OSError, match="s3://"):
        telemetry.predictions(cut_off)
    assert layout.waiting_bytes(cut_off.root, with_parts=True) > 0
    assert layout.oldest_waiting_s(cut_off.root, with_parts=True) > 0
    proxy.come_back()
    Shipping(cut_off).ship()
    assert seen(elsewhere) == expected(ids)


def test_what_there_is_to_see_of_a_rollout_changes_when_another_machine_ships(here: Mirror, elsewhere: Mirror) -> None:
    before = evidence.stamp(elsewhere)
    record(here, 1)
    assert evidence.stamp(elsewhere) == before
    Shipping(here).ship()
    time.sleep(1.1)
    assert evidence.stamp(elsewhere) != before


def wait_for(condition: Callable[[], bool], what: str, *, timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.1)


def test_of_two_processes_one_ships_while_servers_live_and_the_rest_when_they_end(
    here: Mirror, elsewhere: Mirror
) -> None:
    process, beside, recorder = Shipper(here), Shipper(here), Recorder(here.root)
    process.tend()
    beside.tend()
    ids = record(here, 1, recorder=recorder)
    wait_for(lambda: seen(elsewhere) == expected(ids), "it is shipped")
    process.tend()
    assert process.failure is None
    ids += record(here, 1, recorder=recorder)
    assert beside.stop() and process.stop()
    assert seen(elsewhere) == expected(ids)


def test_the_process_says_what_the_trouble_is_and_goes_on_when_it_is_over(
    proxy: Proxy, objects: Objects, tmp_path: Path, elsewhere: Mirror
) -> None:
    place = Mirror(tmp_path / "cut-off", Objects(objects.url, endpoint=proxy.endpoint))
    proxy.leave()
    process = Shipper(place)
    ids = record(place, 1)

    def told() -> str | None:
        process.tend()
        return process.failure

    wait_for(lambda: told() is not None and "s3://" in str(process.failure), "the trouble is told")
    proxy.come_back()
    wait_for(lambda: told() is None, "it is over")
    assert process.stop()
    assert seen(elsewhere) == expected(ids)


def test_a_process_that_cannot_ship_is_stopped_in_time_and_the_next_one_ships(
    proxy: Proxy, objects: Objects, tmp_path: Path, elsewhere: Mirror
) -> None:
    place = Mirror(tmp_path / "cut-off", Objects(objects.url, endpoint=proxy.endpoint))
    proxy.leave()
    process = Shipper(place)
    ids = record(place, 1)
    process.tend()
    began = time.monotonic()
    assert not process.stop(within_s=1)
    assert time.monotonic() - began < 5
    proxy.come_back()
    process.tend()
    assert process.stop()
    assert seen(elsewhere) == expected(ids)


def test_the_process_ships_what_a_killed_server_left_and_ends(here: Mirror, elsewhere: Mirror) -> None:
    code = (
        "import os, sys, time\nfrom datetime import datetime\nfrom pathlib import Path\n"
        "from stores.telemetry import Mirror, Recorder\nfrom stores.telemetry.shipper import Shipper\n"
        "from stores.objects import Objects\nfrom tests.stores.test_telemetry_store import record\n"
        "from tests.stores.test_telemetry import send\n"
        "place = Mirror(Path(sys.argv[1]), Objects(sys.argv[2], endpoint=sys.argv[3]))\n"
        "shipper = Shipper(place)\nshipper.tend()\nids = send(Recorder(place.root), datetime(2013, 3, 1))\n"
        "print(shipper.pid, *ids, flush=True)\ntime.sleep(60)\n"
    )
    server = subprocess.Popen(
        [sys.executable, "-c", code, str(here.root), here.objects.url, str(here.objects.endpoint)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.stdout is not None
    pid, *ids = server.stdout.readline().split()
    server.send_signal(signal.SIGKILL)
    server.wait()
    server.stdout.close()
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), "the process ends")
    assert telemetry.predictions(elsewhere)["prediction_id"].tolist() == ids


def test_it_can_be_run_by_hand(here: Mirror, elsewhere: Mirror) -> None:
    ids = record(here, 1)
    command = [sys.executable, "-m", "stores.telemetry", str(here.root), "--store", here.objects.url]
    done = subprocess.run(
        [*command, "--endpoint", str(here.objects.endpoint)], stdin=subprocess.DEVNULL, check=True, timeout=60,
        capture_output=True,
    )  # fmt: skip
    assert b'"trouble": null' in done.stdout
    assert seen(elsewhere) == expected(ids)
