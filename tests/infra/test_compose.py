"""A team's place on Compose, as a newcomer brings it up: seven nights of schedules with flows in containers of their
own and everything on S3, with a worker killed, a batch that comes late, and a drift. Then what is left is looked at."""

from __future__ import annotations

from collections import Counter
from typing import Any

import httpx
import pytest

from stores.object_store.store import ObjectStore
from tests.infra import week
from tests.infra.containers import docker
from tests.infra.played import ENDED, LATE, NIGHTS, Week, expected_work, live
from tests.infra.team import Team
from tests.waiting import eventually

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1200)]


def test_nothing_answers_without_its_key(team: Team) -> None:
    asked = {
        "Prefect": httpx.get(f"{team.url('PREFECT_PORT')}/api/admin/settings"),
        "MLflow": httpx.get(f"{team.url('MLFLOW_PORT')}/api/2.0/mlflow/experiments/get?experiment_id=0"),
        "model server": httpx.post(f"{team.url('PROXY_PORT')}/predict", json={"rows": []}),
        "store": httpx.get(f"{team.url('OBJECTS_PORT')}/trimtab"),
    }
    refused = {name: answer.status_code for name, answer in asked.items()}
    assert refused["Prefect"] == refused["MLflow"] == 401 and refused["store"] == 403
    assert refused["model server"] in (401, 503), "503 while nobody is live"


def test_whoever_knows_the_password_still_needs_a_csrf_token(team: Team) -> None:
    user, _, password = team.secret("prefect-auth").partition(":")
    answer = httpx.post(f"{team.url('PREFECT_PORT')}/api/flow_runs/filter", json={}, auth=(user, password))
    assert answer.status_code == 403 and "CSRF" in answer.text


def test_ports_are_open_on_this_machine_only(team: Team) -> None:
    names = docker("ps", "--filter", f"network={team.name}_default", "--format", "{{.Ports}}")
    published = [part.strip() for line in names.splitlines() for part in line.split(",") if "->" in part]
    assert len(published) == 6
    assert all(part.startswith("127.0.0.1:") for part in published)


def test_every_night_is_in_the_ledger_once(played: Week) -> None:
    accepted = Counter(row["period"] for row in played.ledger["validations"] if row["accepted"])
    assert accepted == Counter(str(week.START.shift(n)) for n in range(4 + NIGHTS))
    landed = {row["period"]: row["recorded_at"] for row in played.ledger["landings"]}
    assert landed[str(week.night(LATE))] > landed[str(week.night(LATE + 1))], "it came late"


def test_everything_that_was_owed_was_done_once(played: Week) -> None:
    outcomes = Counter(row["work"] for row in played.ledger["outcomes"])
    assert all(outcomes[work] == 1 for work in expected_work(played.ledger))


def test_the_drift_led_to_a_release_that_was_promoted_by_what_users_did(played: Week) -> None:
    asked = [row for row in played.ledger["decisions"]
             if row["action"] == "retrain" and row["period"] >= str(week.night(week.DRIFTS))]  # fmt: skip
    assert asked, "the drift was seen"
    released = {row["work"]: row for row in played.ledger["outcomes"]}[f"retrain:{asked[0]['id']}"]
    assert released["result"] == "rolling out", released
    steps = [
        row["state"] for row in played.ledger["rollout_steps"] if row["rollout"] == released["evidence"]["rollout"]
    ]
    assert steps[:3] == ["started", "probed", "shadow"]
    assert "canary" in steps and "champion" in steps


def test_the_release_is_in_the_store_and_all_three_replicas_answered_with_it(
    team: Team, store: ObjectStore, played: Week
) -> None:
    champion = live(played.ledger)["champion"]
    names = {found.key.rpartition("/")[2] for found in store.list(f"store/releases/{champion}/")}
    assert "manifest.json" in names
    for number in (1, 2, 3):
        code = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8000/metrics').read().decode())"
        told = docker("exec", team.container(f"server-{number}"), "python", "-c", code)
        assert [line for line in told.splitlines() if "trimtab_live_release{" in line and champion[:12] in line]


def test_what_was_killed_was_told_and_done_again(played: Week) -> None:
    assert set(played.killed) == {"worker", "retrain"}
    (lost,) = [run for run in played.runs if run["id"] == played.killed["retrain"]]
    assert lost["state_type"] == "CRASHED"
    assert [row for row in played.ledger["alerts"] if row["id"] == f"run:{lost['id']}"]
    owners = [row["owner"] for row in played.ledger["claims"] if row["work"].startswith("retrain:")]
    assert len(owners) == len(set(owners)) and lost["id"] in owners


def test_each_run_had_a_container_of_its_own_and_nothing_is_left_of_them(team: Team, played: Week) -> None:
    parents = [run for run in played.runs if run["parent_task_run_id"] is None and run["start_time"]]
    # The week looks every second, and on a busy machine a look takes longer than a short run.
    assert len(played.containers) >= 0.7 * len(parents)

    def left() -> list[str]:
        states = {run["id"]: run["state_type"] for run in team.runs()}
        return [run for run in team.containers_of_runs().values() if states.get(run) in ENDED]

    # Those of the worker that was killed are taken away ten minutes later; it had three at once.
    eventually(lambda: len(left()) <= 3, "no container is left of a run that has ended", within_s=60, every_s=1)


def test_both_workers_had_runs_and_runs_of_all_kinds_went_on_at_the_same_time(team: Team, played: Week) -> None:
    for number in (1, 2):
        assert docker("logs", team.container("worker", number)).count("submitting flow run") >= 3
    ended = [run for run in played.runs if flow_of_run(run) and run["end_time"]]
    times = [(flow_of_run(run), run["start_time"], run["end_time"]) for run in ended]
    together = {frozenset((a, c)) for a, b, e in times for c, d, f in times if a != c and b < f and d < e}
    assert frozenset(("retrain", "ingest")) in together
    assert frozenset(("deploy", "retrain")) in together or frozenset(("deploy", "ingest")) in together


def flow_of_run(run: dict[str, Any]) -> str:
    """The flow of a deployment's run; empty for a subflow."""
    return next((tag.partition("/")[0] for tag in run["tags"] if "/" in tag), "")


def test_every_answer_and_its_label_are_in_the_store(team: Team, played: Week) -> None:
    code = (
        "from stores import telemetry; from operations.context import load_context; t = load_context().telemetry;"
        "print(len(set(telemetry.predictions(t)['prediction_id'])))"
    )
    eventually(lambda: int(team.inside(code).split()[-1]) >= len(played.answered), "telemetry is whole", within_s=30)
    assert int(team.inside(code).split()[-1]) == len(played.answered)


def test_prometheus_watches_servers_and_loop(team: Team) -> None:
    def up() -> Counter[str]:
        answer = httpx.get(f"{team.url('PROMETHEUS_PORT')}/api/v1/query", params={"query": "up == 1"}).json()
        return Counter(found["metric"]["job"] for found in answer["data"]["result"])

    eventually(lambda: up().total() >= 5, "all of them are scraped", within_s=60, every_s=1, said=lambda: str(up()))
    assert up() == {"trimtab": 3, "trimtab-loop": 1, "proxy": 1}


def test_the_command_tells_who_is_live(team: Team, first_model: str) -> None:
    said = team.trimtab("status").stdout
    assert "live          version" in said and "unhealthy" not in said


def test_no_secret_is_in_logs_parameters_reports_or_images(team: Team, store: ObjectStore, played: Week) -> None:
    secrets = marked(team)
    assert len(secrets) >= 15
    places = {
        "logs": "".join(docker("logs", name, check=False) for name in every_container(team)),
        "Prefect": "".join(str(team.prefect("POST", path, {"limit": 200})) for path in (
            "/flow_runs/filter", "/deployments/filter", "/work_pools/filter", "/logs/filter", "/artifacts/filter",
            "/task_runs/filter", "/automations/filter", "/block_documents/filter", "/variables/filter",
        )),
        "ledger": str(played.ledger),
        "containers": "".join(docker("inspect", name) for name in every_container(team)),
        "images": "".join(docker("history", "--no-trunc", f"trimtab-{name}") + docker("inspect", f"trimtab-{name}")
                          for name in ("server", "worker")),
        "reports": b"".join(store.read(found.key) for found in store.list("store/reports/")).decode(errors="replace"),
        "command": team.trimtab("status", "--json").stdout + team.trimtab("history", "--json").stdout,
        "project": "".join(path.read_text() for path in (team.secrets.parent / "project").iterdir()),
    }  # fmt: skip
    assert all(places.values()), "there is something to look at everywhere"
    found = [f"{name} in {where}" for where, text in places.items() for name, value in secrets.items() if value in text]
    assert not found


def marked(team: Team) -> dict[str, str]:
    """What of each secret must be nowhere."""
    found = {}
    for file in team.secrets.iterdir():
        for line in file.read_text().splitlines():
            value = line.rpartition("=")[2].strip() if file.name.startswith("store") else line
            value = value.rpartition("trimtab:")[2] if file.name == "prefect-auth" else value
            if len(value) >= 20 and not value.startswith("postgresql") and "aws_access_key_id" not in line:
                found[file.name] = value
            if value.startswith("postgresql"):
                found[file.name] = value.partition("@")[0].rpartition(":")[2]
    return found


def every_container(team: Team) -> list[str]:
    """Names of all containers of the place, also of those that have ended."""
    return docker("ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={team.name}").split()
