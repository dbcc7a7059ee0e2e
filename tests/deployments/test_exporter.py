"""The exporter tells the loop's state as it is, in milliseconds, while anything behind it is slow or away, and tells no
secret."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from prefect import State, flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateDetails, StateType
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from prometheus_client import CollectorRegistry, generate_latest

from deployments.exporter import ledger_metrics, prefect_metrics
from deployments.exporter.polling import PolledSource, PollingCollector, single
from stores.ledger import DecisionRecord, Ledger, ValidationRecord
from stores.ledger.migrations import migrate
from tests.ports import free_ports
from tests.waiting import eventually
from trimtab.data.periods import Every, Period
from trimtab.data.types import Task
from trimtab.rollout.state_machine import RolloutPolicy

ROOT = Path(__file__).resolve().parents[2]
Read = Callable[[], Any]


def told(*sources: PolledSource) -> dict[str, float]:
    """Samples by name and labels, once each source was read."""
    registry = CollectorRegistry()
    registry.register(PollingCollector(sources))
    lines = generate_latest(registry).decode().splitlines()
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")}


def read(source: Read) -> dict[str, float]:
    once = PolledSource("it", source)
    once.poll()
    found = told(once)
    assert found['trimtab_loop_up{source="it"}'] == 1
    return found


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    migrate(made)
    return made


def on(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("every", "newest", "now", "delay_h", "behind"),
    [
        ("month", "2013-03", "2013-05-01T00:00", 0, 1),
        ("month", "2013-03", "2013-04-30T23:59", 0, 0),
        ("month", "2013-03", "2013-05-01T23:59", 24, 0),
        ("month", "2013-11", "2014-02-03T00:00", 24, 2),
        ("month", "2014-01", "2013-02-03T00:00", 24, 0),
        ("week", "2013-03-04", "2013-03-25T00:00", 0, 2),
        ("day", "2013-02-27", "2013-03-02T12:00", 12, 2),
        ("hour", "2013-02-28T22", "2013-03-01T01:30", 0, 2),
    ],
)
def test_periods_behind_are_those_that_are_complete_with_their_labels(
    every: Every, newest: str, now: str, delay_h: int, behind: int
) -> None:
    assert ledger_metrics.periods_behind(Period.parse(newest, every), on(now), timedelta(hours=delay_h)) == behind


def test_how_fresh_the_data_is(ledger: Ledger) -> None:
    project = ledger_metrics.ParamsReader(ROOT)  # months from 2013-01, labels a day later
    now = on("2013-05-02T00:00")
    assert read(lambda: ledger_metrics.freshness_metrics(ledger, project, now))["trimtab_loop_periods_behind"] == 4
    for period, accepted in (("2013-01", True), ("2013-02", True), ("2013-03", False)):
        ledger.record_validation(ValidationRecord(period, "d", "s", accepted, "r", 1, 0))
    found = read(lambda: ledger_metrics.freshness_metrics(ledger, project, now))
    assert found["trimtab_loop_periods_behind"] == 2
    assert found["trimtab_loop_quarantined_periods"] == 1
    assert found["trimtab_loop_accepted_end_timestamp_seconds"] == on("2013-03-01").timestamp()


def test_a_decision_is_told_with_its_numbers(ledger: Ledger) -> None:
    quality = {"metric": "roc_auc", "live": 0.61, "promised": 0.7, "labels": 900}
    evidence = {"impact": 0.3, "facts": {"quality": quality, "prediction_distance": None, "rows": 5000}}
    ledger.record_decision(DecisionRecord("a", "2013-03", "r", "block", "c", evidence))
    found = read(lambda: ledger_metrics.loop_metrics(ledger))
    assert found['trimtab_loop_last_decision{action="block",period="2013-03"}'] == 1
    assert found["trimtab_loop_drift_impact"] == 0.3
    assert found['trimtab_loop_quality{kind="live",metric="roc_auc"}'] == 0.61
    assert "trimtab_loop_prediction_distance" not in found
    assert found['trimtab_loop_backlog{work="retrain"}'] == 0


@pytest.mark.parametrize(("state", "is_under_way"), [("shadow", True), ("champion", False), ("rolled back", False)])
def test_the_rollout_that_is_under_way_is_told(ledger: Ledger, state: str, is_under_way: bool) -> None:
    task: Task = "binary"
    ledger.record_release("new", model_name="m", model_version=1, run_id="r", manifest={})
    terms = RolloutPolicy(task=task).model_dump(mode="json")
    ledger.start_rollout("r1", release="new", champion_before=None, strategy="rollout", cause="c", policy=terms)
    ledger.step_rollout("r1", 1, state)
    found = read(lambda: ledger_metrics.loop_metrics(ledger))
    labels = f'{{release="new",rollout="r1",state="{state}",strategy="rollout"}}'
    assert found[f'trimtab_loop_rollouts{{state="{state}"}}'] == 1
    assert (f"trimtab_loop_rollout_start_timestamp_seconds{labels}" in found) is is_under_way
    assert found.get(f"trimtab_loop_rollout_horizon_seconds{labels}") == (28 * 86400 if is_under_way else None)


def test_a_source_that_is_away_or_hangs_costs_a_scrape_nothing_and_is_told(caplog: pytest.LogCaptureFixture) -> None:
    fails, hangs = threading.Event(), threading.Event()

    def moody() -> Any:
        if fails.is_set():
            raise ConnectionError("postgresql://me:s3cret@db does not answer")
        yield single("known", "Something.", 7)

    def stuck() -> Any:
        hangs.wait(30)
        yield single("never", "Nothing.", 1)

    sources = [PolledSource("moody", moody, interval_s=0.05), PolledSource("stuck", stuck, interval_s=0.05)]
    collector = PollingCollector(sources)
    registry = CollectorRegistry()
    registry.register(collector)
    collector.start()
    try:
        eventually(lambda: told(*sources)['trimtab_loop_up{source="moody"}'] == 1, "it is well")
        began = time.monotonic()
        for _ in range(20):
            generate_latest(registry)
        assert (time.monotonic() - began) / 20 < 0.1
        assert told(*sources)['trimtab_loop_up{source="stuck"}'] == 0
        fails.set()
        eventually(lambda: told(*sources)['trimtab_loop_up{source="moody"}'] == 0, "its trouble")
        assert told(*sources)["trimtab_loop_known"] == 7  # what was known stays
        fails.clear()
        eventually(lambda: told(*sources)['trimtab_loop_up{source="moody"}'] == 1, "it is well")
    finally:
        hangs.set()
        collector.stop()
    said = [record.getMessage() for record in caplog.records if record.name == "trimtab.exporter"]
    assert said == ["moody cannot be read: ConnectionError", "moody can be read again"]
    assert "s3cret" not in caplog.text


def test_a_reading_that_hangs_after_a_good_one_counts_as_down() -> None:
    source = PolledSource("once", list, interval_s=0.01)
    source.poll()
    assert source.is_up
    eventually(lambda: not source.is_up, "its trouble")


@flow
def nothing() -> None:
    """Only its name is needed."""


def test_flow_runs_are_told_as_prefect_has_them(prefect_api: str) -> None:
    """Prefect notes by itself when a run began and ended, but not when it was due."""
    with temporary_settings({PREFECT_API_URL: prefect_api}), get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="watched", type="process"), overwrite=True)

        def run(deployment: str, *kinds: StateType, due_min: float = 0) -> None:
            state: State[Any] = State(type=StateType.SCHEDULED)
            state.state_details = StateDetails.model_validate(
                {"scheduled_time": datetime.now(UTC) + timedelta(minutes=due_min)}
            )
            made = client.create_flow_run(nothing, tags=["trimtab", deployment], state=state)
            for kind in kinds:
                client.set_flow_run_state(made.id, State(type=kind), force=True)

        began = time.time()
        for _ in range(3):
            run("reconcile/every-minute", StateType.RUNNING, StateType.COMPLETED)
        run("ingest/nightly", StateType.RUNNING, StateType.FAILED)
        run("retrain/nightly", StateType.RUNNING, StateType.CRASHED)
        run("retrain/nightly", StateType.RUNNING, StateType.COMPLETED)
        for _ in range(2):
            run("train/on-request", StateType.RUNNING)
        run("deploy/on-request", due_min=-7)
        run("deploy/on-request", due_min=60)
        found = read(lambda: prefect_metrics.run_metrics("watched", datetime.now(UTC)))

    assert found['trimtab_loop_flow_runs{deployment="reconcile/every-minute",state="COMPLETED"}'] == 3
    assert found['trimtab_loop_flow_runs{deployment="retrain/nightly",state="CRASHED"}'] == 1
    assert began <= found["trimtab_loop_last_reconcile_timestamp_seconds"] <= time.time()
    assert (
        began
        <= found['trimtab_loop_failed_run_timestamp_seconds{deployment="ingest/nightly",state="FAILED"}']
        <= time.time()
    )
    assert not [name for name in found if "failed_run" in name and "retrain" in name]  # made good since
    assert (
        began
        <= found['trimtab_loop_running_runs_oldest_timestamp_seconds{deployment="train/on-request"}']
        <= time.time()
    )
    assert found['trimtab_loop_running_runs{deployment="train/on-request"}'] == 2
    assert found['trimtab_loop_late_runs{queue="none"}'] == 1
    assert found['trimtab_loop_late_runs_oldest_timestamp_seconds{queue="none"}'] == pytest.approx(began - 420, abs=60)
    assert found["trimtab_loop_workers"] == 0
    assert found["trimtab_loop_work_pool_paused"] == 0


@pytest.mark.parametrize(("given", "is_up"), [("me:s3cret", 1), ("me:wrong", 0)], ids=["its key", "a wrong key"])
def test_prefects_key_is_used_and_not_told(given: str, is_up: int, caplog: pytest.LogCaptureFixture) -> None:
    """Against a server that asks for Prefect's two proofs: the auth string, and a CSRF token with each question."""
    import base64

    wanted = "Basic " + base64.b64encode(b"me:s3cret").decode()

    class Api(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            proved = self.command == "GET" or self.headers["Prefect-Csrf-Token"] == "t0ken"
            allowed = self.headers["Authorization"] == wanted and proved
            body: Any = []
            if "/csrf-token" in self.path:
                later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
                body = {"token": "t0ken", "client": "c", "expiration": later}
            if self.command == "GET" and "/work_pools/" in self.path:
                body = {"is_paused": False}
            self.send_response(200 if allowed else 401)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        do_GET = do_POST = answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    source = PolledSource("prefect", lambda: prefect_metrics.run_metrics("p", datetime.now(UTC)))
    address = f"http://127.0.0.1:{server.server_port}/api"
    with temporary_settings({PREFECT_API_URL: address, PREFECT_API_AUTH_STRING: given}), caplog.at_level(logging.DEBUG):
        source.poll()
    server.shutdown()
    server.server_close()
    assert told(source)['trimtab_loop_up{source="prefect"}'] == is_up
    assert "s3cret" not in caplog.text + str(told(source))


def test_the_process_serves_stops_and_says_that_its_port_is_taken(tmp_path: Path) -> None:
    """With everything away but the state folder, and a password in the ledger's address."""
    (tmp_path / "params.yaml").write_text("project: {nmae: x}\n")
    (port,) = free_ports(1)
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("TRIMTAB_", "PREFECT_"))},
        "TRIMTAB_PROJECT": str(tmp_path), "TRIMTAB_HOME": str(tmp_path), "TRIMTAB_EXPORTER_PORT": str(port),
        "TRIMTAB_LEDGER_URL": "postgresql+psycopg://me:s3cret@127.0.0.1:1/ledger",
        "TRIMTAB_PREFECT_URL": "http://127.0.0.1:1/api", "PREFECT_API_AUTH_STRING": "me:s3cret",
        "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    command = [sys.executable, "-m", "deployments.exporter"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env=env, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True)
    try:
        eventually(lambda: 'up{source="host"} 1.0' in _scrape(port), "what it exports", within_s=60)
        eventually(lambda: "cannot be read" in (tmp_path / "log").read_text(), "its line in the log")
        text = _scrape(port)
        for source in ("ledger", "data", "prefect", "schedules"):
            assert f'trimtab_loop_up{{source="{source}"}} 0.0' in text
        assert "trimtab_loop_disk_free_bytes " in text
        second = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert second.returncode == 1
        assert "set TRIMTAB_EXPORTER_PORT" in second.stderr
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert "s3cret" not in (tmp_path / "log").read_text() + text + second.stdout + second.stderr


def _scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=2) as answer:
        return str(answer.read().decode())
