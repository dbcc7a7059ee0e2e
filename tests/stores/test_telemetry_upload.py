"""The process beside the servers that uploads their telemetry: one of several, cut off, stopped, left alone."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stores import telemetry
from stores.object_store.store import ObjectStore
from stores.telemetry import Recorder, SharedTelemetry
from stores.telemetry.remote.upload_process import ORPHAN_LIMIT_S, UploadProcess
from tests.stores.machines import expected, record, seen
from tests.stores.proxy import Proxy
from tests.waiting import eventually


@pytest.fixture
def cut_off(tmp_path: Path, objects: ObjectStore, proxy: Proxy) -> SharedTelemetry:
    """A machine whose store is away."""
    proxy.leave()
    return SharedTelemetry(tmp_path / "cut-off", ObjectStore(objects.url, endpoint=proxy.endpoint))


def test_of_two_processes_one_ships_while_servers_live_and_the_rest_when_they_end(
    here: SharedTelemetry, elsewhere: SharedTelemetry
) -> None:
    process, beside, recorder = UploadProcess(here), UploadProcess(here), Recorder(here.root)
    process.run_once()
    beside.run_once()
    ids = record(here, 1, recorder=recorder)
    eventually(lambda: seen(elsewhere) == expected(ids), "it is uploaded")
    process.run_once()
    assert process.failure is None
    ids += record(here, 1, recorder=recorder)
    assert beside.stop() and process.stop()
    assert seen(elsewhere) == expected(ids)


def test_the_process_says_what_the_trouble_is_and_goes_on_when_it_is_over(
    proxy: Proxy, cut_off: SharedTelemetry, elsewhere: SharedTelemetry
) -> None:
    process, ids = UploadProcess(cut_off), record(cut_off, 1)

    def told() -> str | None:
        process.run_once()
        return process.failure

    eventually(lambda: told() is not None and "s3://" in str(process.failure), "the trouble is told")
    proxy.come_back()
    eventually(lambda: told() is None, "it is over")
    assert process.stop()
    assert seen(elsewhere) == expected(ids)


def test_a_process_that_cannot_ship_is_stopped_in_time_and_the_next_one_ships(
    proxy: Proxy, cut_off: SharedTelemetry, elsewhere: SharedTelemetry
) -> None:
    process, ids = UploadProcess(cut_off), record(cut_off, 1)
    process.run_once()
    began = time.monotonic()
    assert not process.stop(within_s=1)
    assert time.monotonic() - began < 5
    proxy.come_back()
    process.run_once()
    assert process.stop()
    assert seen(elsewhere) == expected(ids)


def test_the_process_ships_what_a_killed_server_left_and_ends(
    here: SharedTelemetry, elsewhere: SharedTelemetry
) -> None:
    code = (
        "import os, sys, time\nfrom datetime import datetime\nfrom pathlib import Path\n"
        "from stores.telemetry import SharedTelemetry, Recorder\n"
        "from stores.telemetry.remote.upload_process import UploadProcess\n"
        "from stores.object_store.store import ObjectStore\n"
        "from tests.stores.test_telemetry import send\n"
        "place = SharedTelemetry(Path(sys.argv[1]), ObjectStore(sys.argv[2], endpoint=sys.argv[3]))\n"
        "uploader = UploadProcess(place)\nuploader.run_once()\nids = send(Recorder(place.root), datetime(2013, 3, 1))\n"
        "print(uploader.pid, *ids, flush=True)\ntime.sleep(60)\n"
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
    eventually(lambda: not Path(f"/proc/{pid}").exists(), "the process ends")
    assert telemetry.predictions(elsewhere)["prediction_id"].tolist() == ids


def test_it_can_be_run_by_hand(here: SharedTelemetry, elsewhere: SharedTelemetry) -> None:
    ids = record(here, 1)
    command = [sys.executable, "-m", "stores.telemetry", str(here.root), "--store", here.objects.url]
    done = subprocess.run(
        [*command, "--endpoint", str(here.objects.endpoint)], stdin=subprocess.DEVNULL, check=True, timeout=60,
        capture_output=True,
    )  # fmt: skip
    assert b'"trouble": null' in done.stdout
    assert seen(elsewhere) == expected(ids)


def test_a_process_without_a_server_gives_up_on_a_store_that_is_away_and_the_rest_stays(
    proxy: Proxy, objects: ObjectStore, tmp_path: Path, elsewhere: SharedTelemetry
) -> None:
    place = SharedTelemetry(tmp_path / "cut-off", ObjectStore(objects.url, endpoint=proxy.endpoint))
    ids = record(place, 1)
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from stores.telemetry import SharedTelemetry\nfrom stores.telemetry.remote.upload_process import main\n"
        "from stores.object_store.store import ObjectStore\n"
        "place = SharedTelemetry(Path(sys.argv[1]), ObjectStore(sys.argv[2], endpoint=sys.argv[3], attempts=1))\n"
        "sys.exit(main(place, left_behind_s=0.5))\n"
    )
    command = [sys.executable, "-c", code, str(place.root), objects.url, proxy.endpoint]
    proxy.leave()
    given_up = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
    assert given_up.returncode == 1
    assert b"s3://" in given_up.stdout
    proxy.come_back()
    assert subprocess.run(command, stdin=subprocess.DEVNULL, timeout=60, check=False).returncode == 0
    assert seen(elsewhere) == expected(ids)


def test_the_page_on_stores_says_for_how_long_a_process_without_a_server_tries() -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "store.md").read_text()
    assert f"tries for {ORPHAN_LIMIT_S:.0f} s" in page
