"""What flows ask of a model server with several replicas: two real ones on one port of two loopback addresses, behind
one name, with replicas that refuse, are away, come and go."""

from __future__ import annotations

import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from stores.releases.bundle import Bundle
from tasks import model_server
from tasks.model_server import ModelServerClient, ReplicaUnreachable, ServerRejected
from tests.ports import free_port
from tests.serving.conftest import ServerHome

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems have one loopback address only")
FIRST, SECOND, NOBODY = "127.0.0.1", "127.0.0.2", "127.0.0.3"


@dataclass
class Name:
    """A name in DNS: the addresses that it stands for, and how often somebody has asked."""

    addresses: list[str]
    asked: int = 0
    gone_after: dict[str, int] = field(default_factory=dict)

    def look(self) -> list[str]:
        self.asked += 1
        return [a for a in self.addresses if self.asked <= self.gone_after.get(a, sys.maxsize)]


@dataclass(frozen=True)
class Pair:
    """Two servers on one ledger, each with releases of its own."""

    first: ServerHome
    second: ServerHome

    def release(self, version: int, *, both: bool = True) -> Bundle:
        made = self.first.release(version=version, seed=version)
        if both:
            shutil.copytree(made.path, self.second.home / "releases" / made.digest)
        return made

    def start_second(self) -> None:
        url = f"sqlite:///{self.first.home}/ledger.db"
        self.second.start(wait_for="", TRIMTAB_HOST=SECOND, TRIMTAB_LEDGER_URL=url)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    first = ServerHome(tmp_path_factory.mktemp("first"), free_port())
    made = Pair(first, replace(first, home=tmp_path_factory.mktemp("second")))
    try:
        first.go_live(made.release(1).digest)
        first.start(wait_for="")
        made.start_second()
        for address in (FIRST, SECOND):
            assert model_server.wait_until_ready(ModelServerClient(f"http://{address}:{first.port}"), within_s=30)
        yield made
    finally:
        for place in (made.first, made.second):
            if place.process is not None:
                place.kill()


@pytest.fixture
def name(monkeypatch: pytest.MonkeyPatch) -> Name:
    """What ``servers`` stands for; other names and addresses are looked up as ever."""
    real, told = socket.getaddrinfo, Name([FIRST, SECOND])

    def lookup(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host != "servers":
            return real(host, port, *args, **kwargs)
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in told.look()]
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return found

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    return told


@pytest.fixture
def servers(pair: Pair, name: Name, monkeypatch: pytest.MonkeyPatch) -> ModelServerClient:
    """Both of them, as flows know them."""
    del name
    monkeypatch.setattr(model_server, "UNREACHABLE_WAIT_S", 0.6)
    return ModelServerClient(f"http://servers:{pair.first.port}", is_many=True)


def loaded(pair: Pair, address: str, digest: str) -> bool:
    return digest in model_server.live(ModelServerClient(f"http://{address}:{pair.first.port}"))["loaded"]


def test_every_replica_loads_and_probes(pair: Pair, servers: ModelServerClient) -> None:
    digest = pair.release(2).digest
    model_server.load(servers, digest)
    assert [loaded(pair, address, digest) for address in (FIRST, SECOND)] == [True, True]
    found = model_server.probe(servers, digest)
    assert (found["ok"], found["replicas"]) == (True, 2)


def test_one_that_refuses_is_named_and_the_other_has_been_asked_as_well(pair: Pair, servers: ModelServerClient) -> None:
    digest = pair.release(3, both=False).digest
    with pytest.raises(ServerRejected, match=f"{SECOND}.*refused with 404"):
        model_server.load(servers, digest)
    assert loaded(pair, FIRST, digest)
    with pytest.raises(ServerRejected, match=SECOND):
        model_server.probe(servers, digest)


def test_one_that_answers_otherwise_than_recorded_refuses_for_all(pair: Pair, servers: ModelServerClient) -> None:
    digest = pair.first.release(version=4, seed=4, wrong_samples=True).digest
    shutil.copytree(pair.first.home / "releases" / digest, pair.second.home / "releases" / digest)
    with pytest.raises(ServerRejected, match="does not answer as recorded"):
        model_server.probe(servers, digest)


def test_one_that_is_away_is_asked_for_a_while_and_then_named(
    pair: Pair, servers: ModelServerClient, name: Name
) -> None:
    name.addresses.append(NOBODY)
    digest, started = pair.release(5).digest, time.monotonic()
    with pytest.raises(ReplicaUnreachable, match=f"{NOBODY}.*does not answer"):
        model_server.probe(servers, digest)
    assert time.monotonic() - started > model_server.UNREACHABLE_WAIT_S
    assert loaded(pair, FIRST, digest)
    assert loaded(pair, SECOND, digest)


def test_one_that_ends_while_it_is_asked_is_none_any_more(pair: Pair, servers: ModelServerClient, name: Name) -> None:
    """As a pod that a rolling update has taken away: its address goes some seconds later."""
    name.addresses.append(NOBODY)
    name.gone_after[NOBODY] = 1
    assert model_server.probe(servers, pair.release(6).digest)["replicas"] == 2


def test_one_that_is_just_starting_is_waited_for(
    pair: Pair, servers: ModelServerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_server, "UNREACHABLE_WAIT_S", 30)
    digest = pair.release(7).digest
    pair.second.kill()
    asking = threading.Timer(0.5, pair.start_second)
    asking.start()
    assert model_server.probe(servers, digest, timeout_s=30)["replicas"] == 2
    asking.join()


def test_a_name_that_stands_for_nothing_is_told(pair: Pair, servers: ModelServerClient, name: Name) -> None:
    name.addresses.clear()
    with pytest.raises(ServerRejected, match=r"servers.* has no replica"):
        model_server.load(servers, pair.release(8).digest)
    assert not model_server.wait_for_version(servers, 1, within_s=1)
    assert model_server.refusal_reason(servers, "0" * 64) is None


def test_a_name_that_is_not_known_yet_is_waited_for(
    pair: Pair, servers: ModelServerClient, name: Name, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS says for some seconds that there is nobody when the first pods have just become ready."""
    monkeypatch.setattr(model_server, "UNREACHABLE_WAIT_S", 30)
    name.addresses.clear()
    soon = threading.Timer(0.7, name.addresses.extend, ([FIRST, SECOND],))
    soon.start()
    assert model_server.probe(servers, pair.release(13).digest)["replicas"] == 2


def test_following_means_every_replica(pair: Pair, servers: ModelServerClient, name: Name) -> None:
    version = pair.first.go_live(pair.release(9).digest)
    assert model_server.wait_for_version(servers, version, within_s=10)
    assert not model_server.wait_for_version(servers, version + 1, within_s=0.5)
    name.addresses.append(NOBODY)
    assert not model_server.wait_for_version(servers, version, within_s=1)


def test_a_release_that_one_replica_will_not_have_is_refused(
    pair: Pair, servers: ModelServerClient, name: Name
) -> None:
    champion, challenger = pair.release(10).digest, pair.release(11, both=False).digest
    version = pair.first.go_live(champion, challenger=challenger, share=0.1, rollout="r")
    assert model_server.wait_for_version(servers, version, within_s=10)
    name.addresses.append(NOBODY)  # who says nothing refuses nothing
    assert model_server.refusal_reason(servers, challenger)
    assert model_server.refusal_reason(servers, champion) is None
    name.addresses.remove(SECOND)
    assert model_server.refusal_reason(servers, challenger) is None


def test_without_a_name_of_many_the_one_address_is_asked_whatever_it_stands_for(pair: Pair, name: Name) -> None:
    one = ModelServerClient(f"http://{SECOND}:{pair.first.port}")
    assert one.replicas() == [one]
    assert model_server.probe(one, pair.release(12).digest)["replicas"] == 1
    assert name.asked == 0
