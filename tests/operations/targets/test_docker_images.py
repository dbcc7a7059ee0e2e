"""Which image a release's containers are started from, on an engine that is a few dictionaries: no image is built. The
same on a real engine is tests/operations/targets/test_docker_target.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import docker
import pytest
from docker.errors import APIError, ImageNotFound

from operations.context import ProjectContext
from operations.targets.docker import DockerTarget
from stores.ledger import Ledger
from stores.ledger.migrations import migrate
from tasks import containers
from tasks.model_server import ReplicaUnreachable
from tests.serving.sample_project import tiny_bundle
from tests.trimtab import sample_rows
from trimtab.config.settings import Settings

SERVER = "server:1"
WAIT = DockerTarget._wait_until_ready


class Engine:
    """Images by name, containers by name, and what was pushed."""

    def __init__(self) -> None:
        self.images = self.containers = self
        self.known: dict[str, SimpleNamespace] = {}
        self.there: dict[str, SimpleNamespace] = {}
        self.pushed: list[str] = []
        self.made = 0
        self.build(tag=SERVER, labels={})

    def close(self) -> None:
        """Nothing is open."""

    def get(self, name: str) -> Any:
        if name in self.there:
            return self.there[name]
        if name not in self.known:
            raise ImageNotFound(name)
        return self.known[name]

    def pull(self, name: str) -> Any:
        raise ImageNotFound(name)

    def build(self, *, tag: str, labels: dict[str, str], **_: Any) -> None:
        self.made += 1
        self.known[tag] = SimpleNamespace(id=f"sha256:{self.made}", labels=labels)

    def push(self, name: str, **_: Any) -> Iterator[dict[str, str]]:
        self.pushed.append(name)
        return iter(())

    def create(self, image: str, *, name: str, labels: dict[str, str], **_: Any) -> Any:
        if name in self.there:
            raise APIError("in use", response=SimpleNamespace(status_code=409, reason="Conflict"))
        attrs = {"Image": self.known[image].id, "State": {"Status": "running"},
                 "Config": {"Image": image, "Labels": labels}}  # fmt: skip
        made = SimpleNamespace(name=name, attrs=attrs, start=lambda: None, reload=lambda: None)
        made.remove = lambda **_: self.there.pop(name)
        self.there[name] = made
        return made


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    made = Engine()
    monkeypatch.setattr(docker, "from_env", lambda **_: made)
    return made


@pytest.fixture
def digest(tmp_path: Path) -> str:
    return tiny_bundle(tmp_path / "releases").digest


@pytest.fixture
def target(tmp_path: Path, digest: str, monkeypatch: pytest.MonkeyPatch) -> DockerTarget:
    """One in which *digest* is live. Whether containers get ready, and whom the proxy shows, is for others to test."""
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    migrate(ledger)
    ledger.record_release(digest, model_name="m", model_version=1, run_id="r", manifest={})
    ledger.switch(digest, expected=0, move="promote", reason="first", actor="a")
    monkeypatch.setattr(DockerTarget, "_probe", lambda _self, _name, _digest: {"ok": True})
    monkeypatch.setattr(DockerTarget, "_wait_until_ready", lambda _self, _name: None)
    settings = Settings(project=tmp_path, home=tmp_path, target="docker", server_image=SERVER, registry="host/path")
    made = DockerTarget(ProjectContext(settings, sample_rows.params(), ledger))
    show(monkeypatch, made)
    return made


def show(monkeypatch: pytest.MonkeyPatch, target: DockerTarget, *names: str) -> None:
    """Users are sent to these containers."""
    proxy = SimpleNamespace(current=lambda: (1, names), route_to=lambda *_, **__: False)
    monkeypatch.setattr(target, "_proxy", proxy)


def test_a_release_is_baked_again_once_the_servers_image_is_another(
    engine: Engine, target: DockerTarget, digest: str
) -> None:
    target.start_and_probe(digest, "r1")
    first = engine.known[target.image(digest)].id
    target.start_and_probe(digest, "r2")
    assert engine.known[target.image(digest)].id == first, "nothing has changed"
    engine.build(tag=SERVER, labels={})
    (name,) = target.start_and_probe(digest, "r3")["containers"]
    baked = engine.known[target.image(digest)]
    assert baked.id != first
    assert baked.labels["trimtab.base"] == engine.known[SERVER].id
    assert engine.there[name].attrs["Image"] == baked.id, "a container from before makes way"


def test_a_rollback_starts_from_the_image_that_is_there(engine: Engine, target: DockerTarget, digest: str) -> None:
    target.start_and_probe(digest, "r1")
    before = engine.known[target.image(digest)].id
    engine.there.clear()
    engine.build(tag=SERVER, labels={})
    target._route_to(digest, 1)
    assert [container.attrs["Image"] for container in engine.there.values()] == [before]


def test_a_container_that_gets_requests_is_not_replaced(
    engine: Engine, target: DockerTarget, digest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (name,) = target.start_and_probe(digest, "r1")["containers"]
    before = engine.there[name]
    show(monkeypatch, target, name)
    engine.build(tag=SERVER, labels={})
    target.start_and_probe(digest, "r2")
    assert engine.there[name] is before


def test_an_image_that_was_baked_and_not_pushed_is_pushed_by_the_next_one(
    engine: Engine, target: DockerTarget, digest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_reference: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(containers, "push", killed)
        with pytest.raises(KeyboardInterrupt):
            target.start_and_probe(digest, "r1")
    target.start_and_probe(digest, "r1")
    assert engine.pushed == [target.image(digest)]


def test_a_container_that_another_run_removed_does_not_reject_its_release(engine: Engine, target: DockerTarget) -> None:
    assert engine.there == {}
    with pytest.raises(ReplicaUnreachable, match="another run"):
        WAIT(target, "gone")
