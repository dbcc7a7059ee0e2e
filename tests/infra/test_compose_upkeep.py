"""What people do to a team's place later: roll, change keys, deploy into containers, save and restore. In this order:
the last takes the place away."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.infra import week
from tests.infra.containers import DOCKER, docker
from tests.infra.played import Week, live
from tests.infra.team import Team
from tests.ports import free_ports
from tests.waiting import eventually

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]
DATASETS = """
import json
from operations.context import load_context
from tasks import dataset
place = load_context()
found = {}
for head in place.ledger.heads():
    found[head.hash] = sorted(dataset.listing(place.workspace, head.hash, remote=place.remote))
newest = place.ledger.head()
for name in found[newest.hash]:
    dataset.fetch_file(place.workspace, newest.hash, name=name, remote=place.remote)
print(json.dumps(found))
"""
MODELS = """
import json
from mlflow import MlflowClient
client = MlflowClient()
versions = client.search_model_versions("name='nights'")
print(json.dumps([[v.version, v.run_id, sorted(v.aliases)] for v in versions], default=str))
"""


@dataclass
class Users:
    """Somebody who asks all the time, and what was answered."""

    url: str
    key: str
    statuses: list[int] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @contextmanager
    def asking(self) -> Iterator[None]:
        until = threading.Event()
        threads = [threading.Thread(target=self._ask, args=(until,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            until.set()
            for thread in threads:
                thread.join()

    def _ask(self, until: threading.Event) -> None:
        body = question()
        with httpx.Client(timeout=20) as client:
            while not until.wait(0.02):
                try:
                    answer = client.post(f"{self.url}/predict", json=body, headers={"X-API-Key": self.key})
                    self.statuses.append(answer.status_code)
                except httpx.HTTPError as error:
                    self.failed.append(repr(error))


def question() -> dict[str, Any]:
    """Rows of the newest day, as users send them."""
    rows = week.rows(week.night(7)).head(20)
    shown = rows[[*week.columns().features, "flight_id", "tailnum"]]
    shown = shown.assign(scheduled=rows["scheduled"].dt.strftime("%Y-%m-%dT%H:%M:%S"))
    return {"columns": {name: [None if v != v else v for v in shown[name].tolist()] for name in shown}}


def answered(url: str, key: str) -> list[float]:
    """The champion's probabilities for the question."""
    answer = httpx.post(f"{url}/predict", json=question(), headers={"X-API-Key": key}, timeout=20)
    assert answer.status_code == 200, answer.text
    return [prediction["probability"] for prediction in answer.json()["predictions"]]


def identities(team: Team) -> list[str]:
    """The ids of the replicas' containers."""
    return [docker("inspect", "--format", "{{.Id}}", team.container(f"server-{number}")) for number in (1, 2, 3)]


def test_replicas_are_replaced_one_by_one_and_nobody_goes_without_an_answer(team: Team, first_model: str) -> None:
    users = Users(team.url("PROXY_PORT"), team.secret("server-predict"))
    before = identities(team)
    with users.asking():
        said = team.program("rolling_restart.py").stdout
    assert said.count("is new after") == 3
    assert not set(before) & set(identities(team))
    assert not users.failed and set(users.statuses) == {200} and len(users.statuses) > 100


def test_a_key_is_changed_without_anybody_being_refused(team: Team, first_model: str) -> None:
    url, old = team.url("PROXY_PORT"), team.secret("server-predict")
    users = Users(url, old)
    with users.asking():
        team.program("rotate_key.py", "add", "server-predict", "--secrets", str(team.secrets))
        new = team.secret("server-predict").replace("\n", ",").split(",")[0]
        eventually(lambda: let_in(team, new) == 3, "every replica knows the new key", within_s=30)
        users.key = new
        time.sleep(1)
        team.program("rotate_key.py", "drop", "server-predict", "--secrets", str(team.secrets))
        eventually(lambda: let_in(team, old) == 0, "no replica knows the old key", within_s=30)
    assert not users.failed and set(users.statuses) == {200} and len(users.statuses) > 50


def let_in(team: Team, key: str) -> int:
    """How many replicas let somebody with that key ask."""
    code = (
        "import sys, urllib.request as u; r = u.Request('http://127.0.0.1:8000/predict', sys.stdin.buffer.read(),"
        "{'X-API-Key': sys.argv[1], 'Content-Type': 'application/json'}); print(u.urlopen(r).status)"
    )
    asked = [
        team.run((DOCKER, "exec", "-i", team.container(f"server-{number}"), "python", "-c", code, key), check=False,
                 input=json.dumps(question())).returncode == 0 for number in (1, 2, 3)
    ]  # fmt: skip
    return sum(asked)


@pytest.fixture(scope="module")
def containers(team: Team) -> Iterator[Team]:
    """The same place with releases in containers behind a proxy of their own."""
    name, (port,) = f"{team.name}-proxy", free_ports(1)
    mounted = [f"{team.secrets}/{secret}:/run/secrets/{secret}:ro"
               for secret in ("ledger-url", "server-admin", "server-predict", "store-credentials")]  # fmt: skip
    given = {
        "TRIMTAB_LEDGER_URL_FILE": "/run/secrets/ledger-url", "TRIMTAB_ADMIN_KEYS_FILE": "/run/secrets/server-admin",
        "TRIMTAB_PREDICT_KEYS_FILE": "/run/secrets/server-predict", "TRIMTAB_STORE": "s3://trimtab/store",
        "TRIMTAB_STORE_ENDPOINT": "http://objects:8333",
        "AWS_SHARED_CREDENTIALS_FILE": "/run/secrets/store-credentials",
    }  # fmt: skip
    settings = {
        "TRIMTAB_TARGET": "docker", "TRIMTAB_SERVER_IMAGE": "trimtab-server:latest", "TRIMTAB_REPLICAS": "2",
        "TRIMTAB_DOCKER_NETWORK": f"{team.name}_default", "TRIMTAB_DOCKER_PROXY": name,
        "TRIMTAB_SERVER_URL": f"http://{name}:8000", "TRIMTAB_SERVER_REPLICAS": "",
        "TRIMTAB_DOCKER_ENV": json.dumps([f"{key}={value}" for key, value in given.items()]),
        "TRIMTAB_DOCKER_VOLUMES": json.dumps(mounted),
    }  # fmt: skip
    docker("run", "--detach", "--name", name, "--network", f"{team.name}_default", "--publish",
           f"127.0.0.1:{port}:8000", "--volume", f"{name}:/etc/trimtab", "trimtab-proxy")  # fmt: skip
    try:
        yield replace(team, env={**team.env, "FRONT_PORT": str(port), "SETTINGS": json.dumps(settings)})
    finally:
        for found in docker("ps", "--all", "--quiet", "--filter", "label=trimtab.project=nights").split():
            docker("rm", "--force", "--volumes", found, check=False)
        docker("rm", "--force", "--volumes", name, check=False)
        docker("volume", "rm", name, check=False)
        images = docker("images", "--quiet", "--filter", "label=trimtab.project=nights").split()
        docker("rmi", "--force", *images, check=False)


def command(team: Team, *words: str) -> str:
    """Run the command with the Docker target's settings, beside the worker, which has the engine."""
    given = [word for name, value in json.loads(team.env["SETTINGS"]).items() for word in ("--env", f"{name}={value}")]
    volumes = ("--volume", "/srv/trimtab/state", "--volume", team.env["PROJECT_VOLUME"])
    return team.compose("run", "--rm", "-T", "--no-deps", *given, *volumes, "worker", "python", "-m", "cli", *words)


def test_a_release_goes_into_containers_and_comes_back_from_the_image_that_is_there(
    containers: Team, played: Week
) -> None:
    """The week that was played has two releases."""
    team, key = containers, containers.secret("server-predict")
    released = [row["digest"] for row in team.ledger()["releases"]]
    champion = str(live(team.ledger())["champion"])
    other = next(digest for digest in released if digest != champion)
    command(team, "promote", other)
    assert running(other) == 2 and running(champion) == 0
    users = Users(team.url("FRONT_PORT"), key)
    with users.asking():
        command(team, "promote", champion)
        assert (running(champion), running(other)) == (2, 0)
        began = time.monotonic()
        command(team, "rollback")
        took = time.monotonic() - began
        assert (running(champion), running(other)) == (0, 2)
    assert not users.failed and set(users.statuses) == {200}
    assert live(team.ledger())["champion"] == other
    images = docker("images", "--format", "{{.Tag}}", "trimtab-nights").split()
    assert sorted(images) == sorted([champion, other])
    print(f"a rollback into containers took {took:.1f} s")


def last_line(said: str) -> Any:
    """The JSON after what others print."""
    return json.loads(said.splitlines()[-1])


def running(digest: str) -> int:
    """How many containers answer with the release."""
    return len(docker("ps", "--quiet", "--filter", f"label=trimtab.release={digest}").split())


def test_a_backup_brought_into_new_volumes_is_the_same_place(team: Team, played: Week, tmp_path: Path) -> None:
    key = team.secret("server-predict")
    before = {"datasets": last_line(team.inside(DATASETS)), "models": last_line(team.inside(MODELS))}
    ledger, answers = team.ledger(), answered(team.url("PROXY_PORT"), key)
    said = team.program("backup.py", "save", str(tmp_path / "backup")).stdout
    assert "saved to" in said
    team.down()
    new = team.named(f"{team.name}-new")
    try:
        new.program("backup.py", "restore", str(tmp_path / "backup"))
        assert new.program("backup.py", "restore", str(tmp_path / "backup"), check=False).returncode == 1, "not twice"
        new.up()
        after = {"datasets": last_line(new.inside(DATASETS)), "models": last_line(new.inside(MODELS))}
        assert after == before and len(before["datasets"]) > 4 and len(before["models"]) >= 2
        again = new.ledger()
        for table in ("releases", "live", "decisions", "outcomes", "dataset_heads", "rollout_steps", "validations"):
            assert again[table][: len(ledger[table])] == ledger[table], table
        assert answered(new.url("PROXY_PORT"), key) == pytest.approx(answers, abs=1e-12)
    finally:
        new.down()
