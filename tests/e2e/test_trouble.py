"""Trouble, made for real on the running stack: what breaks is told, what can go on does, the next run finishes."""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from stores.ledger import DecisionRecord
from tests.conftest import Stack
from tests.e2e.conftest import changed_params, ended, reconciled, same_champion, started
from tests.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("same_data")]


def champion(stack: Stack) -> str:
    """Who answers users, as the model server says."""
    return str(httpx.get(f"{stack.settings.model_server}/live", timeout=5).raise_for_status().json()["champion"])


def asked(stack: Stack) -> DecisionRecord:
    """A decision to retrain that nobody has heard of yet."""
    last = next(d for d in reversed(stack.ledger.decisions()) if d.action == "retrain")
    decision = DecisionRecord(
        id=f"{last.period}-{uuid.uuid4().hex[:8]}", period=last.period, release=last.release, action="retrain",
        cause="asked for by a test", evidence=last.evidence,
    )  # fmt: skip
    stack.ledger.record_decision(decision)
    return decision


def mistyped(params: dict[str, Any]) -> None:
    params["trian"] = params.pop("train")


def wrong_type(params: dict[str, Any]) -> None:
    params["gate"]["min_slice_rows"] = "many"


def impossible_window(params: dict[str, Any]) -> None:
    params["train"]["holdout"] = "400d"


@pytest.mark.parametrize(
    ("command", "change", "says"),
    [
        (("status",), mistyped, "trian"),
        (("up",), wrong_type, "gate.min_slice_rows"),
        (("run", "train"), impossible_window, "holdout"),
    ],
    ids=["unknown key", "wrong type", "impossible window"],
)
def test_wrong_params_are_named_with_their_line(
    stack: Stack, command: tuple[str, ...], change: Callable[[dict[str, Any]], None], says: str
) -> None:
    path = stack.settings.root / "params.yaml"
    key = says.rpartition(".")[2]
    with changed_params(stack, change):
        lines = path.read_text().splitlines()
        line = 1 + next(n for n, text in enumerate(lines) if text.strip().startswith(f"{key}:"))
        done = stack.trimtab(*command, check=False)
    assert done.returncode == 1
    assert f"{path}:{line}: " in done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_parameter_that_a_flow_does_not_have_is_named_beside_those_that_it_has(stack: Stack) -> None:
    done = stack.trimtab("run", "ingest", "-p", "peroid=2013-03", check=False)
    assert done.returncode == 1
    told = "trimtab: ingest has no parameter peroid: its parameters are period, and_validate, changed"
    assert done.stderr.strip() == told


def test_up_a_second_time_changes_nothing(stack: Stack) -> None:
    before = [(p["name"], p["pid"], p["restarts"]) for p in _parts(stack)]
    stack.trimtab("up")
    assert [(p["name"], p["pid"], p["restarts"]) for p in _parts(stack)] == before


def _parts(stack: Stack) -> list[dict[str, Any]]:
    return list(json.loads(stack.trimtab("status", "--json").stdout)["components"])


@contextmanager
def listening() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A web server that keeps what is posted to it: its address, and the bodies."""
    heard: list[dict[str, Any]] = []

    class Listener(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Not on the test's output."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/alerts", heard
    finally:
        server.shutdown()
        server.server_close()


def test_a_rollback_puts_the_previous_release_back_everywhere_and_is_heard_by_the_webhook(stack: Stack) -> None:
    with same_champion(stack) as before, listening() as (url, heard):
        version = len(stack.ledger.history())
        with changed_params(stack, lambda p: p["alerts"].append({"kind": "webhook", "url": url})):
            lag_s = _server_lag(stack, lambda: stack.trimtab("rollback", "--reason", "a test asks"))
        now = stack.ledger.live()
        assert now is not None
        assert (now.version, now.move, now.reason) == (version + 1, "rollback", "a test asks")
        assert now.champion != before
        assert now.champion in {entry.champion for entry in stack.ledger.history()[:-1]}
        assert lag_s < 2
        assert champion(stack) == now.champion
        assert _alias(stack) == _model_version(stack, now.champion)
        assert "a test asks" in stack.trimtab("history").stdout.splitlines()[-1]
        assert [(a["id"], a["kind"]) for a in heard] == [(f"live:{now.version}", "rolled back")]
        stack.trimtab("promote", before[:12])
        assert champion(stack) == before
        assert _alias(stack) == _model_version(stack, before)


def _server_lag(stack: Stack, act: Callable[[], object]) -> float:
    """How long after the ledger the model server named another champion, while *act* made one."""
    ledger, before = stack.ledger, champion(stack)
    acting = threading.Thread(target=act)
    acting.start()
    moved_at = None
    while acting.is_alive() or moved_at is None:
        live = ledger.live()
        assert live is not None
        if moved_at is None and live.champion != before:
            moved_at = time.monotonic()
        if moved_at is not None and champion(stack) != before:
            break
        time.sleep(0.02)
    lag_s = time.monotonic() - (moved_at or 0.0)
    acting.join()
    return lag_s


def _model_version(stack: Stack, digest: str) -> int:
    release = stack.ledger.release(digest)
    assert release is not None
    return release.model_version


def _alias(stack: Stack) -> int:
    live = stack.ledger.live()
    assert live is not None
    release = stack.ledger.release(live.champion)
    assert release is not None
    found = httpx.get(
        f"{stack.settings.tracking_uri}/api/2.0/mlflow/registered-models/alias",
        params={"name": release.model_name, "alias": "champion"}, timeout=10,
    )  # fmt: skip
    return int(found.raise_for_status().json()["model_version"]["version"])


def test_a_damaged_release_is_refused_by_its_digest_and_the_champion_goes_on(stack: Stack) -> None:
    """Even when the server still holds a sound copy in memory: it could not be loaded again."""
    with same_champion(stack) as before:
        other = next(r.digest for r in stack.ledger.releases() if r.digest != before)
        model = stack.settings.releases / other / "model.skops"
        sound = model.read_bytes()
        model.write_bytes(sound[:5000] + bytes([sound[5000] ^ 1]) + sound[5001:])
        try:
            refused = stack.trimtab("promote", other, check=False)
        finally:
            model.write_bytes(sound)
        assert refused.returncode == 1
        last = refused.stderr.splitlines()[-1]
        assert last.startswith("trimtab: ")
        assert "model.skops: sha256" in last
        assert champion(stack) == before
        assert stack.ledger.live().champion == before  # type: ignore[union-attr]  # somebody is live
        rollout = stack.ledger.rollouts()[-1]
        assert rollout.release == other
        assert [step.state for step in stack.ledger.rollout_steps(rollout.id)] == ["started", "rolled back"]
        (alert,) = [a for a in stack.ledger.alerts() if a.id == f"rollout:{rollout.id}"]
        assert "model.skops" in alert.message
        again = started(stack, "deploy/on-request", release=other, at_once=True)
        assert ended(stack, again)["state_type"] == "COMPLETED"
        assert champion(stack) == other


def test_of_two_retrains_for_one_decision_exactly_one_does_it(stack: Stack) -> None:
    decision = asked(stack)
    with same_champion(stack):
        theirs = started(stack, "retrain/on-drift", decision=decision.id)
        mine = stack.trimtab("run", "retrain", "-p", f"decision={decision.id}")
        assert ended(stack, theirs)["state_type"] == "COMPLETED"
    assert len(stack.ledger.claims(f"retrain:{decision.id}")) == 1
    outcome = stack.ledger.outcomes()[f"retrain:{decision.id}"]
    assert outcome.result in ("rejected", "rolling out")
    assert (mine.stdout.splitlines()[-1] == "done before") == (outcome.owner == theirs)


def test_a_retrain_whose_process_was_killed_is_told_and_done_by_another(stack: Stack) -> None:
    decision = asked(stack)
    with same_champion(stack):
        run = started(stack, "retrain/on-drift", decision=decision.id)
        work = f"retrain:{decision.id}"
        inside = {"flow_runs": {"parent_flow_run_id": {"any_": [run]}}}
        eventually(lambda: stack.prefect("/flow_runs/filter", inside), "training, a part of it", within_s=60)
        os.kill(int(stack.prefect(f"/flow_runs/{run}")["infrastructure_pid"]), signal.SIGKILL)
        assert ended(stack, run, within_s=30)["state_type"] == "CRASHED"
        reconciled(stack)
        (alert,) = [a for a in stack.ledger.alerts() if a.id == f"run:{run}"]
        assert "crashed" in alert.message
        assert {part["state_type"] for part in stack.prefect("/flow_runs/filter", inside)} <= {"CRASHED", "COMPLETED"}
        outcome = eventually(lambda: stack.ledger.outcomes().get(work), "the retrain", within_s=120)
    assert outcome.result in ("rolling out", "rejected")
    assert [claim.attempt for claim in stack.ledger.claims(work)] == [1, 2]
    assert outcome.owner == stack.ledger.claims(work)[1].owner != run


def test_with_mlflow_and_postgres_killed_in_the_middle_a_retrain_still_gets_there(stack: Stack) -> None:
    """Asked for from a shell. Retries carry the run over the outage; one candidate, one version, one release."""
    parts = ("mlflow", "postgres")
    before_it = {p["name"]: p for p in _parts(stack)}

    def another_model(params: dict[str, Any]) -> None:
        params["train"]["seed"] = int(time.time())
        params["gate"] |= {"min": 0.0, "max_regression": 0.9, "slices": {}}
        params["rollout"]["slices"] = {}

    with same_champion(stack) as before, changed_params(stack, another_model):
        run = _asked_from_a_shell(stack, "retrain/nightly")
        eventually(lambda: _running_candidates(stack), "a candidate in the making", within_s=90)
        for part in parts:
            os.kill(before_it[part]["pid"], signal.SIGKILL)
        over = ended(stack, run, within_s=120)
        assert over["state_type"] == "COMPLETED", over["state"]["message"]
        live = stack.ledger.live()
        assert live is not None
        assert live.champion == before, "a new release begins in the shadow"
    outcome = stack.ledger.outcomes()[f"retrain:run:{run}"]
    candidate = outcome.evidence["run_id"]
    releases = [r for r in stack.ledger.releases() if r.run_id == candidate]
    assert outcome.result == "rolling out"
    assert [r.digest for r in releases] == [live.challenger]
    assert _versions(stack, candidate) == [releases[0].model_version]
    after = {p["name"]: p for p in _parts(stack)}
    for part in parts:
        assert after[part]["state"] == "running"
        assert after[part]["restarts"] > before_it[part]["restarts"]


KILLED_BEFORE_IT_IS_RECORDED = """
import os, signal, sys
from flows.ingest import ingest
from stores import batches
land = batches.land
def postgres_dies_then(*args):
    batch = land(*args)
    os.kill(int(sys.argv[1]), signal.SIGKILL)
    return batch
batches.land = postgres_dies_then
ingest("2014-01")
"""


def test_with_postgres_killed_after_a_batch_landed_it_is_recorded_all_the_same(stack: Stack) -> None:
    """The flights end with 2013: the batch is empty, and its alert arrives."""
    restarts = next(p["restarts"] for p in _parts(stack) if p["name"] == "postgres")
    stack.python(KILLED_BEFORE_IT_IS_RECORDED, str(stack.pid("postgres")))
    (check,) = stack.ledger.validations("2014-01")
    assert not check.accepted
    assert [a.kind for a in stack.ledger.alerts() if a.id.startswith("batch:2014-01")] == ["batch quarantined"]
    assert next(p["restarts"] for p in _parts(stack) if p["name"] == "postgres") == restarts + 1


def _asked_from_a_shell(stack: Stack, deployment: str) -> str:
    env = {**stack.env, "PREFECT_API_URL": stack.settings.prefect_api}
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "deployment", "run", deployment], env=env, capture_output=True, text=True,
        timeout=60, check=True,
    )  # fmt: skip
    return next(line.split()[-1] for line in done.stdout.splitlines() if "UUID" in line)


def _mlflow(stack: Stack, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = httpx.post(f"{stack.settings.tracking_uri}/api/2.0/mlflow/{path}", json=body, timeout=10)
    return dict(answer.raise_for_status().json())


def _running_candidates(stack: Stack) -> list[Any]:
    known = _mlflow(stack, "experiments/search", {"max_results": 50})["experiments"]
    wanted = {"experiment_ids": [e["experiment_id"] for e in known], "filter": "status = 'RUNNING'"}
    runs = _mlflow(stack, "runs/search", wanted).get("runs", [])
    return [run for run in runs if run["info"]["run_name"].startswith("candidate")]


def _versions(stack: Stack, run_id: str) -> list[int]:
    found = httpx.get(
        f"{stack.settings.tracking_uri}/api/2.0/mlflow/model-versions/search",
        params={"filter": f"run_id='{run_id}'"}, timeout=10,
    )  # fmt: skip
    return [int(version["version"]) for version in found.raise_for_status().json().get("model_versions", [])]


def _interrupted(stack: Stack, *args: str, when: Callable[[int, Path], object], tmp: Path) -> tuple[int, str, float]:
    """Ctrl-C to `trimtab …`, as a terminal sends it: exit status, what was printed, and how long it took to end."""
    said = tmp / "said.txt"
    with said.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "cli", *args], env=stack.env, cwd=stack.env["TRIMTAB_PROJECT"], stdout=out,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            eventually(lambda: when(process.pid, said), "the middle of it", within_s=60)
            began = time.monotonic()
            os.killpg(process.pid, signal.SIGINT)
            code = process.wait(timeout=30)
            return code, said.read_text(), time.monotonic() - began
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def test_ctrl_c_ends_an_ingest_at_once_and_the_next_one_finishes(stack: Stack, tmp_path: Path) -> None:
    stack.fault(p2013_02="fails")
    try:
        code, text, seconds = _interrupted(
            stack, "run", "ingest", "-p", "period=2013-02", tmp=tmp_path,
            when=lambda _, said: "Retry 1/3 will start" in said.read_text(),
        )  # fmt: skip
    finally:
        stack.fault()
    assert code == 130, text
    assert seconds < 10
    assert "Traceback" not in text
    assert ended(stack, started(stack, "ingest/on-request", period="2013-02"))["state_type"] == "COMPLETED"
    assert len(stack.ledger.validations("2013-02")) == 1, "the same rows again change nothing"


def test_ctrl_c_ends_a_replay_and_what_it_had_started_beside_it(stack: Stack, tmp_path: Path) -> None:
    beside: list[psutil.Process] = []

    def is_in_the_middle(pid: int, _said: Path) -> bool:
        beside.extend(psutil.Process(pid).children())
        return bool(beside)

    code, text, seconds = _interrupted(
        stack, "replay", "--first", "2013-06", "--last", "2013-06", when=is_in_the_middle, tmp=tmp_path
    )
    assert code == 130
    assert seconds < 10
    assert "Traceback" not in text
    assert not any(process.is_running() for process in beside)
