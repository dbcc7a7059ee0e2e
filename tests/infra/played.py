"""Seven nights of a team's place: what plays them from outside, what is broken on the way, and what is seen."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any

from stores.object_store.store import ObjectStore
from tests.infra import week
from tests.infra.containers import docker
from tests.infra.team import Team
from tests.waiting import eventually

NIGHTS, NIGHT_S, LATE = 7, 60.0, 2
SETTLED_S = 240.0
ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


@dataclass
class Week:
    """What was done to the place from outside, and what it looked like afterwards."""

    answered: set[str] = field(default_factory=set)
    killed: dict[str, str] = field(default_factory=dict)
    ledger: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)
    containers: set[str] = field(default_factory=set)


def play(team: Team, store: ObjectStore) -> Week:
    """Seven nights, played by the schedules alone."""
    seen, users = Week(), team.traffic(week.columns())
    watching = threading.Event()
    watcher = threading.Thread(target=watch_containers, args=(team, seen, watching))
    watcher.start()
    try:
        schedule(team, NIGHT_S)
        began = time.monotonic()
        for number in range(1, NIGHTS + 1):
            day = week.night(number)
            if number != LATE:
                store.put(f"{week.PREFIX}/{day}.parquet", week.batch(day))
            if number == LATE + 2:
                store.put(f"{week.PREFIX}/{week.night(LATE)}.parquet", week.batch(week.night(LATE)))
            seen.answered |= set(users.send(week.rows(day)))
            users.deliver(day.end.replace(tzinfo=None))
            if number == 2:
                seen.killed["worker"] = kill_worker(team)
            if number >= week.DRIFTS and "retrain" not in seen.killed:
                seen.killed |= kill_retrain(team, within_s=NIGHT_S - 10)
            time.sleep(max(0.0, began + number * NIGHT_S - time.monotonic()))
        schedule(team, None)
        eventually(lambda: settled(team), "everything has ended", within_s=SETTLED_S, every_s=1)
    finally:
        watching.set()
        watcher.join()
    seen.ledger, seen.runs = team.ledger(), team.runs()
    return seen


def schedule(team: Team, every_s: float | None) -> None:
    """Let nights be so long; None lets them rest."""
    for title in ("ingest/on-change", "retrain/nightly"):
        found = team.prefect("GET", f"/deployments/name/{title}")
        for planned in found["schedules"]:
            change = {"active": False} if every_s is None else {"active": True, "schedule": week.every(every_s)}
            team.prefect("PATCH", f"/deployments/{found['id']}/schedules/{planned['id']}", change)


def kill_worker(team: Team) -> str:
    """End a worker without a word, whatever it is at; the engine starts it again. Its container's id."""
    name = team.container("worker", 1)
    others = "p for p in os.listdir('/proc') if p.isdigit() and int(p) not in (1, os.getpid())"
    ending = f"import os; [os.kill(int(p), 9) for p in [{others}]]"
    docker("exec", name, "python", "-I", "-S", "-c", ending, check=False)
    return docker("inspect", "--format", "{{.Id}}", name).strip()


def kill_retrain(team: Team, *, within_s: float) -> dict[str, str]:
    """End the container of a retrain that a drift asked for, in its middle; the run's id, nothing if there is none."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        for run in team.runs(state_type="RUNNING"):
            if "retrain/on-drift" in run["tags"]:
                time.sleep(2)
                found = docker("ps", "--quiet", "--filter", f"label=io.prefect.flow-run-id={run['id']}").split()
                if found:
                    docker("kill", *found, check=False)
                    return {"retrain": str(run["id"])}
        time.sleep(1)
    return {}


def watch_containers(team: Team, seen: Week, until: threading.Event) -> None:
    """Which containers flow runs had."""
    while not until.wait(1):
        seen.containers |= set(team.containers_of_runs())


def settled(team: Team) -> bool:
    """Whether nothing is under way, but for looking at a trial that goes on, and nothing is owed."""
    ends_soon = [run for run in team.runs() if not {"reconcile/every-minute", "deploy/on-rollout"} & set(run["tags"])]
    if [run for run in ends_soon if run["state_type"] not in ENDED]:
        return False
    ledger = team.ledger()
    outcomes = {row["work"] for row in ledger["outcomes"]}
    return not [work for work in expected_work(ledger) if work not in outcomes]


def live(ledger: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Who answers now."""
    return max(ledger["live"], key=lambda row: row["version"])


def expected_work(ledger: dict[str, list[dict[str, Any]]]) -> list[str]:
    """What the facts in the ledger ask for."""
    looked_at = [f"monitor:{row['period']}:{row['digest']}" for row in ledger["validations"] if row["accepted"]]
    return looked_at + [f"retrain:{row['id']}" for row in ledger["decisions"] if row["action"] == "retrain"]


def done(team: Team, run: str, *, within_s: float = 180) -> dict[str, Any]:
    """Wait for the end of a flow run, which has to be a good one."""
    found: dict[str, Any] = {}

    def ended() -> bool:
        found.update(team.prefect("GET", f"/flow_runs/{run}"))
        return found["state_type"] in ENDED

    eventually(ended, f"flow run {run} ends", within_s=within_s, every_s=1)
    assert found["state_type"] == "COMPLETED", found["state"]["message"]
    return found
