"""Servers with separate folders and one store: they download releases from it and upload telemetry to it."""

from __future__ import annotations

import json
import signal
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stores import telemetry
from stores.object_store.s3 import parse_url
from stores.object_store.store import ObjectStore
from stores.releases.store import ReleaseStore
from stores.telemetry import SharedTelemetry
from tests.ports import free_port
from tests.serving.conftest import ServerHome
from tests.serving.sample_rollout import RULES
from tests.stores.proxy import Proxy, proxied
from tests.stores.seaweed import Seaweed, seaweed
from tests.waiting import eventually
from trimtab.rollout.state_machine import RolloutPolicy

__all__ = ["seaweed"]
ROW = {"scheduled": "2013-03-04T10:00:00Z", "distance": 900, "hour": 7, "carrier": "UA", "flight": "F1"}
SOON_S, PATIENCE_S = 15.0, 90.0  # three seconds where there is nothing else to do
pytestmark = pytest.mark.timeout(300)
ENDED = (0, -signal.SIGTERM)


class Servers:
    """Model servers on one ledger and one store, each with a state folder of its own, all behind *proxy*."""

    def __init__(self, folder: Path, seaweed: Seaweed, proxy: Proxy) -> None:
        self.proxy, self.objects = proxy, seaweed.objects()
        self.ledger = ServerHome(folder / "ledger", 0)
        self.ledger.home.mkdir()
        self.places: list[ServerHome] = []
        self.folder = folder

    def release(self, **options: Any) -> str:
        """A release in the store and in the ledger, in no server's folder."""
        made = self.ledger.release(**options)
        content = {name: made.read(name) for name in made.manifest.files}
        fields = made.manifest.model_dump(mode="json", exclude={"files"})
        ReleaseStore(self.folder / "maker", self.objects).put(manifest_fields=fields, files=content)
        return made.digest

    def start(self, *, ready: bool = True, **env: str) -> ServerHome:
        """One more."""
        home = self.folder / f"server-{len(self.places)}"
        home.mkdir()
        place = ServerHome(home, free_port(), {
            "TRIMTAB_LEDGER_URL": f"sqlite:///{self.ledger.home}/ledger.db", "TRIMTAB_STORE": self.objects.url,
            "TRIMTAB_STORE_ENDPOINT": self.proxy.endpoint, "TRIMTAB_UPLOAD_S": "1", **env,
        })  # fmt: skip
        self.places.append(place)
        place.start(wait_for="")
        if ready:
            self.wait_until_ready(place)
        return place

    def started(self, count: int) -> list[ServerHome]:
        """As many at once."""
        places = [self.start(ready=False) for _ in range(count)]
        for place in places:
            self.wait_until_ready(place)
        return places

    def wait_until_ready(self, place: ServerHome) -> None:
        place.wait(lambda: place.get("/ready")[0] == 200, "ready", within_s=PATIENCE_S)

    @property
    def reader(self) -> SharedTelemetry:
        """A machine that has nothing yet."""
        self.readers = getattr(self, "readers", 0) + 1
        return SharedTelemetry(self.folder / f"reader-{self.readers}", self.objects)


@pytest.fixture
def servers(tmp_path: Path, seaweed: Seaweed) -> Iterator[Servers]:
    with proxied(seaweed.port) as proxy:
        found = Servers(tmp_path, seaweed, proxy)
        yield found
        for place in found.places:
            if place.process is not None:
                place.kill()


class Users(threading.Thread):
    """Send requests without a pause and keep the answers. A failed request is sent again."""

    def __init__(self, place: ServerHome) -> None:
        super().__init__(daemon=True)
        self._url = f"http://127.0.0.1:{place.port}/predict"
        self._over = threading.Event()
        self.answered: list[str] = []
        self.start()

    def run(self) -> None:
        while not self._over.is_set():
            request = urllib.request.Request(self._url, json.dumps({"rows": [ROW] * 3}).encode())
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    self.answered += [p["id"] for p in json.loads(answer.read())["predictions"]]
            except (OSError, urllib.error.URLError, ValueError):
                time.sleep(0.05)
            time.sleep(0.01)

    def stop(self) -> list[str]:
        self._over.set()
        self.join()
        return self.answered


def metric(place: ServerHome, name: str) -> float:
    found = [line for line in place.get("/metrics")[1].splitlines() if line.startswith(f"{name} ")]
    return float(found[0].split()[1])


def test_every_answer_of_three_servers_is_in_the_store_once_also_when_one_is_killed_under_load(
    servers: Servers,
) -> None:
    servers.ledger.go_live(servers.release())
    places = servers.started(3)
    users = [Users(place) for place in places]
    time.sleep(2)
    places[1].kill()
    time.sleep(0.5)
    places[1].start(wait_for="")
    servers.wait_until_ready(places[1])
    time.sleep(2)
    answered = [id for some in users for id in some.stop()]
    for place in places:
        assert place.stop() in ENDED
    counts = Counter(telemetry.predictions(servers.reader)["prediction_id"])
    assert len(answered) > 100
    assert not set(answered) - set(counts), "answered, but not recorded"
    assert set(counts.values()) == {1}


def test_answers_pairs_and_labels_of_all_servers_reach_a_reader_soon(servers: Servers) -> None:
    champion, challenger = servers.release(), servers.release(version=2, seed=1)
    terms = RolloutPolicy(task="binary", **RULES).model_dump(mode="json")
    ledger = servers.ledger.ledger
    ledger.start_rollout(
        "r1", release=challenger, champion_before=champion, strategy="rollout", cause="test", policy=terms
    )
    for number, state in enumerate(("started", "probed", "shadow"), start=1):
        ledger.step_rollout("r1", number, state, {"share": 0.0})
    servers.ledger.go_live(champion, challenger=challenger, share=0.5, rollout="r1")
    places = servers.started(2)
    ids = [p["id"] for place in places for p in place.post("/predict", {"rows": [ROW] * 2})[1]["predictions"]]
    for place in places:
        assert place.post("/labels", {"labels": [{"id": id, "label": 1} for id in ids]})[0] == 200
    reader = servers.reader

    def seen() -> bool:
        pairs, known = telemetry.pairs(reader, rollout="r1"), telemetry.joined(reader)
        return set(pairs["prediction_id"]) == set(ids) and known["label"].notna().sum() == len(ids)

    eventually(seen, "all of it is seen elsewhere", within_s=SOON_S)
    assert telemetry.count_labels(reader).rows == 2 * len(ids)
    word = places[0].get("/verdict/r1")
    assert word[0] == 200 and word[1]["pairs"] == len(ids), "one server tells what all have seen"


def test_a_server_uploads_all_its_telemetry_before_it_stops(servers: Servers) -> None:
    servers.ledger.go_live(servers.release())
    place = servers.start(TRIMTAB_UPLOAD_S="600")
    ids = [p["id"] for p in place.post("/predict", {"rows": [ROW] * 5})[1]["predictions"]]
    assert telemetry.predictions(servers.reader).empty
    assert place.stop() in ENDED
    assert sorted(telemetry.predictions(servers.reader)["prediction_id"]) == sorted(ids)


def test_servers_answer_while_the_store_is_unavailable_and_upload_everything_afterwards(servers: Servers) -> None:
    servers.ledger.go_live(servers.release())
    place = servers.start()
    users = Users(place)
    place.wait(lambda: metric(place, "trimtab_upload_up") == 1, "it uploads", within_s=PATIENCE_S)
    servers.proxy.leave()
    place.wait(lambda: metric(place, "trimtab_upload_up") == 0, "the trouble is told", within_s=PATIENCE_S)
    before = len(users.answered)
    place.wait(lambda: metric(place, "trimtab_upload_lag_seconds") > 3, "the lag is told", within_s=PATIENCE_S)
    assert metric(place, "trimtab_upload_pending_bytes") > 0
    status, ready = place.get("/ready")
    assert status == 200 and "s3://" in ready["upload"] and ready["upload_lag_s"] > 0
    place.wait(lambda: len(users.answered) > before + 10, "answers go on")
    servers.proxy.come_back()
    place.wait(lambda: metric(place, "trimtab_upload_lag_seconds") < 3, "it has caught up", within_s=PATIENCE_S)
    place.wait(lambda: place.get("/ready")[1]["upload"] == "ok", "all is well", within_s=PATIENCE_S)
    answered = users.stop()
    place.stop()
    assert sorted(telemetry.predictions(servers.reader)["prediction_id"]) == sorted(answered)


def test_a_server_with_an_empty_folder_downloads_the_live_release_and_what_it_is_to_load(servers: Servers) -> None:
    first, second = servers.release(), servers.release(version=2, seed=1)
    servers.ledger.go_live(first)
    place = servers.start()
    assert place.post("/predict", ROW)[1]["release"] == first
    assert place.post(f"/releases/{second}/load")[0] == 200
    assert place.post(f"/releases/{second}/probe")[1]["ok"]
    assert place.post(f"/releases/{'0' * 64}/load")[0] == 404


def test_a_release_that_is_damaged_in_the_store_is_reported_and_not_loaded(servers: Servers, seaweed: Seaweed) -> None:
    first, second = servers.release(), servers.release(version=2, seed=1)
    bucket, prefix = parse_url(servers.objects.url)
    key = f"{prefix}releases/{second}/model.skops"
    seaweed.client.put_object(Bucket=bucket, Key=key, Body=b"no model")
    servers.ledger.go_live(first)
    place = servers.start()
    status, said = place.post(f"/releases/{second}/load")
    assert status == 422 and key in said["error"]["problem"]
    servers.ledger.go_live(first, challenger=second, share=0.5, rollout="r1")
    place.wait(lambda: second in place.get("/live")[1]["refused"], "the challenger is refused", within_s=PATIENCE_S)
    assert place.post("/predict", ROW)[1]["release"] == first


def test_an_unavailable_store_stops_no_answers_and_refuses_no_challenger(servers: Servers) -> None:
    first, second = servers.release(), servers.release(version=2, seed=1)
    servers.ledger.go_live(first)
    place = servers.start()
    servers.proxy.leave()
    assert place.post(f"/releases/{second}/load")[0] == 503
    version = servers.ledger.go_live(first, challenger=second, share=0.5, rollout="r1")
    place.wait(lambda: place.get("/live")[1]["ledger_version"] == version, "it follows", within_s=PATIENCE_S)
    assert place.get("/live")[1]["refused"] == {}
    assert place.post("/predict", ROW)[1]["release"] == first
    servers.proxy.come_back()
    place.wait(lambda: second in place.get("/live")[1]["loaded"], "the challenger is fetched", within_s=PATIENCE_S)


def test_a_damaged_copy_is_replaced_when_the_server_starts(servers: Servers) -> None:
    digest = servers.release()
    servers.ledger.go_live(digest)
    place = servers.start()
    place.stop()
    (place.home / "releases" / digest / "model.skops").write_bytes(b"no model")
    place.start(wait_for="")
    servers.wait_until_ready(place)
    assert place.post("/predict", ROW)[1]["release"] == digest


def test_two_prefixes_of_one_bucket_do_not_mix(seaweed: Seaweed, tmp_path: Path) -> None:
    url = seaweed.place()
    one, other = (ObjectStore(f"{url}/{name}", endpoint=seaweed.endpoint) for name in ("one", "other"))
    one.put("a", b"1")
    assert not list(other.list())
    assert [found.key for found in one.list()] == ["a"]
