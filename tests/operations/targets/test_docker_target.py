"""Releases as containers, on a real engine behind a real HAProxy: users always get an answer, and the next run
repairs what an interrupted one left."""

from __future__ import annotations

import subprocess
import sysconfig
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from operations.context import ProjectContext
from operations.targets.contract import TargetRejected, desired_release
from operations.targets.docker import DockerTarget
from stores.ledger.migrations import migrate
from stores.releases.bundle import Bundle
from tasks import containers
from tests.engine import BASE, needs_engine
from tests.ports import free_ports
from tests.serving.conftest import ServerHome
from tests.trimtab import sample_rows
from trimtab.config.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
SERVER, PROXY, PACKAGES = "trimtab-test-server:1", "trimtab-test-proxy:1", "/srv/packages"
ROW = {"distance": 900, "hour": 7, "carrier": "UA"}

pytestmark = [pytest.mark.docker, pytest.mark.timeout(500), needs_engine]


def docker(*words: str, given: str | None = None) -> str:
    done = subprocess.run(["docker", *words], input=given, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"docker {' '.join(words)}: {done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def images() -> None:
    """A model server that finds this environment's packages and code where they are mounted, and HAProxy."""
    variables = (
        f"PYTHONPATH=/srv/code:{PACKAGES} TRIMTAB_PROJECT=/srv/project TRIMTAB_HOME=/srv/state TRIMTAB_HOST=0.0.0.0"
    )
    server = f'FROM {BASE}\nENV {variables}\nENTRYPOINT ["python", "-m", "serving"]\n'
    docker("build", "--quiet", "--tag", SERVER, "-", given=server)
    proxy = (
        f"FROM {BASE}\n"
        "RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends haproxy\n"
        'ENTRYPOINT ["haproxy", "-W", "-db", "-f", "/etc/trimtab/haproxy.cfg"]\n'
    )
    docker("build", "--quiet", "--network", "host", "--tag", PROXY, "-", given=proxy)


class Users:
    """A client that sends requests all the time."""

    def __init__(self, url: str) -> None:
        self._url, self._stop = url, threading.Event()
        self.answered: list[float] = []
        self.failed: list[str] = []
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Users:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._stop.is_set():
            try:
                answer = httpx.post(
                    f"{self._url}/predict", json={"rows": [ROW]}, headers={"X-API-Key": "ask"}, timeout=10
                )
                if answer.status_code == 200:
                    self.answered.append(time.monotonic())
                else:
                    self.failed.append(f"{answer.status_code} {answer.text[:200]}")
            except httpx.HTTPError as error:
                self.failed.append(f"{type(error).__name__}: {error}")


class World:
    """An engine's network with a proxy, a ledger, and releases."""

    def __init__(self, home: Path, url: str, settings: Settings) -> None:
        self.store, self.url = ServerHome(home, 0), url
        migrate(self.store.ledger)
        self.here = ProjectContext(settings, sample_rows.params(), self.store.ledger)
        self.target = DockerTarget(self.here)

    @property
    def names(self) -> list[str]:
        """The project's model servers that run."""
        project = self.here.params.project.name
        return [c.name for c in containers.find({"trimtab.project": project}) if c.runs]

    def release(self, version: int, **options: Any) -> Bundle:
        return self.store.release(version=version, seed=version, **options)

    def move(self, digest: str) -> None:
        """Let the ledger say so."""
        self.store.go_live(digest)

    def proxy(self) -> list[str]:
        return httpx.get(f"{self.url}/backend").text.split()

    def container(self, bundle: Bundle) -> str:
        return f"trimtab-{self.here.params.project.name}-{bundle.digest[:12]}-1"


@pytest.fixture
def world(images: None, tmp_path: Path) -> Iterator[World]:
    mark = uuid.uuid4().hex[:8]
    network, proxy, (port,) = f"trimtab-test-{mark}", f"trimtab-test-proxy-{mark}", free_ports(1)
    home = tmp_path / "state"
    home.mkdir()
    (tmp_path / "secrets").mkdir()
    secrets = {"keys": "rule", "ask": "ask", "ledger": "sqlite:////srv/state/ledger.db"}
    for name, secret in secrets.items():
        (tmp_path / "secrets" / name).write_text(f"{secret}\n")
    (tmp_path / "proxy").mkdir()
    (tmp_path / "proxy" / "haproxy.cfg").write_text(
        "defaults\n    mode http\n    timeout connect 1s\n    timeout client 9s\n    timeout server 9s\n"
        "frontend users\n    bind :8000\n"
    )
    settings = Settings(
        project=tmp_path, home=home, server_url=f"http://127.0.0.1:{port}", server_key=SecretStr("rule"),
        target="docker", server_image=SERVER, docker_network=network, docker_proxy=proxy, ready_s=150, docker_drain_s=5,
        docker_env=("TRIMTAB_LEDGER_URL_FILE=/run/secrets/ledger", "TRIMTAB_ADMIN_KEYS_FILE=/run/secrets/keys",
                    "TRIMTAB_PREDICT_KEYS_FILE=/run/secrets/ask"),
        docker_volumes=(f"{ROOT}:/srv/code:ro", f"{sysconfig.get_path('purelib')}:{PACKAGES}:ro",
                        f"{home}:/srv/state", f"{tmp_path}/secrets:/run/secrets:ro"),
    )  # fmt: skip
    docker("network", "create", network)
    docker("run", "--detach", "--init", "--name", proxy, "--network", network, "--publish", f"127.0.0.1:{port}:8000",
           "--volume", f"{tmp_path}/proxy:/etc/trimtab", PROXY)  # fmt: skip
    made = World(home, f"http://127.0.0.1:{port}", settings)
    try:
        yield made
    finally:
        project = made.here.params.project.name
        for container in containers.find({"trimtab.project": project}):
            containers.remove(container.name)
        docker("rm", "--force", proxy)
        docker("network", "rm", network)
        for released in made.store.ledger.releases():
            containers.remove_image(made.target.image(released.digest))


def test_users_go_to_the_new_container_without_losing_an_answer_and_back_to_the_image_that_is_there(
    world: World,
) -> None:
    first, second = world.release(1), world.release(2)
    found = world.target.start_and_probe(first.digest, "r1")
    assert found["ok"]
    assert found["image"].endswith(first.digest)
    world.move(first.digest)
    world.target.reconcile()
    with Users(world.url) as users:
        found = world.target.start_and_probe(second.digest, "r2")
        assert sorted(world.names) == sorted([world.container(first), world.container(second)])
        assert world.proxy()[1:] == [world.container(first)], "beside the running one, without users"
        world.move(second.digest)
        done = world.target.reconcile()
        assert world.proxy()[1:] == world.names == [world.container(second)]
        assert len(done) == 2, done

        bundle = world.store.home / "releases" / first.digest
        bundle.rename(world.store.home / "away")  # the image has it
        world.move(first.digest)
        world.target.reconcile()
        assert world.proxy()[1:] == world.names == [world.container(first)]
        time.sleep(1)
    assert (bundle / "manifest.json").exists(), "the image brought it back"
    assert not users.failed, f"{len(users.answered)} answered, {users.failed[:5]}"
    assert len(users.answered) > 100
    pauses = [after - before for before, after in zip(users.answered, users.answered[1:], strict=False)]
    print(f"{len(users.answered)} answered, the longest pause {max(pauses):.2f} s")


def test_a_release_that_does_not_answer_as_recorded_never_gets_a_user_and_leaves_nothing(world: World) -> None:
    good, bad = world.release(1), world.release(2, wrong_samples=True)
    world.target.start_and_probe(good.digest, "r1")
    world.move(good.digest)
    world.target.reconcile()
    with pytest.raises(TargetRejected, match="sample rows differ from the recorded predictions"):
        world.target.start_and_probe(bad.digest, "r2")
    world.target.remove(bad.digest)
    assert world.names == [world.container(good)] == world.proxy()[1:]
    assert containers.find_image(world.target.image(bad.digest)) is None


def test_an_image_that_exits_at_its_start_is_rejected_with_its_logs(world: World) -> None:
    bundle = world.release(1)
    environment = (*world.here.settings.docker_env, "TRIMTAB_MAX_ROWS=none")
    settings = world.here.settings.model_copy(update={"docker_env": environment})
    target = DockerTarget(ProjectContext(settings, world.here.params, world.here.ledger))
    with pytest.raises(TargetRejected, match="TRIMTAB_MAX_ROWS: Input should be a valid integer"):
        target.start_and_probe(bundle.digest, "r1")
    target.remove(bundle.digest)
    assert world.names == []


def test_an_interrupted_run_is_finished_by_the_next(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each of its calls to Docker in turn; and each time the ledger has moved on as well."""
    pair = [world.release(1), world.release(2)]
    world.target.start_and_probe(pair[0].digest, "r")
    world.move(pair[0].digest)
    world.target.reconcile()
    for interrupted in ("bake", "start", "write_file", "remove"):
        to = pair[1] if desired_release(world.here.ledger).digest == pair[0].digest else pair[0]  # type: ignore[union-attr]
        world.move(to.digest)
        with monkeypatch.context() as patched:
            real = getattr(containers, interrupted)

            def stop(*args: Any, real: Any = real, **given: Any) -> None:
                real(*args, **given)
                raise KeyboardInterrupt

            patched.setattr(containers, interrupted, stop)
            with pytest.raises(KeyboardInterrupt):
                world.target.reconcile()
        assert httpx.post(f"{world.url}/predict", json={"rows": [ROW]}, headers={"X-API-Key": "ask"}).status_code == 200
        world.target.reconcile()
        assert world.proxy()[1:] == world.names == [world.container(to)], f"after an interrupted {interrupted}"
        assert world.target.reconcile() == [], "and then there is nothing left to do"


def test_the_containers_of_a_pending_rollout_are_left_alone(world: World) -> None:
    first, second = world.release(1), world.release(2)
    world.target.start_and_probe(first.digest, "r1")
    world.move(first.digest)
    ledger = world.here.ledger
    ledger.start_rollout("r2", release=second.digest, champion_before=first.digest, strategy="rollout", cause="test")
    ledger.step_rollout("r2", 1, "started")
    world.target.start_and_probe(second.digest, "r2")
    world.target.reconcile()
    assert world.container(second) in world.names
    ledger.step_rollout("r2", 2, "rolled back")
    world.target.reconcile()
    assert world.names == [world.container(first)]
