"""A rejected release ends its rollout, while an unavailable target leaves it pending.
On a real ledger, with each target."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from operations import rollout_start
from operations.context import ProjectContext
from operations.targets import running_servers
from operations.targets.contract import TargetUnavailable
from operations.targets.docker import DockerTarget
from stores.ledger import Ledger
from stores.ledger.migrations import migrate
from tasks import kubernetes, model_server, orchestrator
from tasks.containers import EngineRejected, EngineUnavailable, error_type
from tests.operations.targets.fake_cluster import NAME, NAMESPACE, Cluster, running
from tests.ports import free_port
from tests.serving.sample_project import tiny_bundle
from tests.trimtab import sample_rows
from trimtab.config.settings import Settings

ROLLOUT = "new-after-0-1"


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setattr(kubernetes, "_TRIES", 1)
    with running(Cluster()) as made:
        yield made


class Begun:
    """A project with a release whose rollout has begun."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.digest = tiny_bundle(folder / "releases").digest
        ledger = Ledger(f"sqlite:///{folder / 'ledger.db'}")
        migrate(ledger)
        ledger.record_release(self.digest, model_name="m", model_version=1, run_id="r", manifest={})
        ledger.start_rollout(ROLLOUT, release=self.digest, champion_before=None, strategy="switch", cause="c")
        ledger.step_rollout(ROLLOUT, 1, "started")
        self.ctx = ProjectContext(Settings(project=folder, home=folder, **settings), sample_rows.params(), ledger)

    def admit(self) -> None:
        rollout_start.start_and_probe(self.ctx, self.digest, ROLLOUT)

    @property
    def state(self) -> str:
        return str(self.ctx.ledger.rollout_steps(ROLLOUT)[-1].state)

    @property
    def alerts(self) -> list[str]:
        return [str(alert.kind) for alert in self.ctx.ledger.alerts()]


@pytest.fixture(params=["server", "docker", "kubernetes"])
def away(request: pytest.FixtureRequest, tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Begun:
    """Where the target cannot be reached."""
    if request.param == "server":
        monkeypatch.setattr(running_servers, "load_release", model_server.load)  # without the pauses of a task
        return Begun(tmp_path, server_port=free_port())
    if request.param == "docker":
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{free_port()}")
        return Begun(tmp_path, target="docker", server_image="server:1")
    cluster.troubles += [503] * 10
    return Begun(tmp_path, **in_cluster(cluster, tmp_path))


def in_cluster(cluster: Cluster, folder: Path) -> dict[str, Any]:
    return {"target": "kubernetes", "kube_namespace": NAMESPACE, "kube_deployment": NAME,
            "kube_config": cluster.kubeconfig(folder)}  # fmt: skip


def test_an_unavailable_target_does_not_end_the_rollout(away: Begun) -> None:
    with pytest.raises(TargetUnavailable, match="answer"):
        away.admit()
    assert away.state == "started", "and reconcile has it tried again"
    assert away.alerts == []


def test_a_rejected_release_ends_the_rollout_with_an_alert_and_an_event(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(orchestrator, "emit", lambda event, **_: told.append(event))
    begun = Begun(tmp_path, **in_cluster(cluster, tmp_path))
    cluster.troubles += [403]
    with pytest.raises(rollout_start.RolloutStopped, match="get, list, watch and patch"):
        begun.admit()
    assert begun.state == "rolled back"
    assert (begun.alerts, told) == (["release rejected"], ["trimtab.rollout.rolled-back"])


def test_an_engine_that_stops_before_a_rejected_release_is_removed_hides_no_rejection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{free_port()}")
    begun = Begun(tmp_path, target="docker")
    DockerTarget(begun.ctx).remove(begun.digest)
    assert "reconcile tries again" in capsys.readouterr().out


@pytest.mark.parametrize(
    "said",
    [
        'Get "https://registry:5000/v2/": dial tcp 10.0.0.9:5000: connect: connection refused',
        "dial tcp: lookup registry on 127.0.0.53:53: no such host",
        "net/http: TLS handshake timeout",
        "received unexpected HTTP status: 503 Service Unavailable",
        'Head "https://registry/v2/a/manifests/b": EOF',
    ],
)
def test_an_unavailable_registry_is_recognized_by_the_engines_message(said: str) -> None:
    assert error_type(said) is EngineUnavailable


@pytest.mark.parametrize(
    "said",
    [
        "denied: requested access to the resource is denied",
        "unauthorized: authentication required",
        "manifest for server:2 not found: manifest unknown",
        "COPY failed: file not found in build context",
    ],
)
def test_what_a_registry_or_the_engine_rejects_stays_rejected(said: str) -> None:
    assert error_type(said) is EngineRejected
