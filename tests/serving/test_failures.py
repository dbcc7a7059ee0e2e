"""No answer is lost and no request fails needlessly: kill -9, new releases under load, a full disk, no ledger."""

from __future__ import annotations

import http.client
import json
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from stores.telemetry import compact, pairs, predictions
from tests.serving.conftest import ServerHome

ROW = {"distance": 900, "hour": 7, "carrier": "UA", "scheduled": "2013-03-01T05:15:00Z"}


@dataclass
class Load:
    """What clients got: ids and releases of the answers, and failures."""

    ids: list[str] = field(default_factory=list)
    releases: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)

    def client(self, port: int, rows: int) -> None:
        body = json.dumps({"rows": [ROW] * rows})
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        while not self.stopping.is_set():
            try:
                connection.request("POST", "/predict", body)
                response = connection.getresponse()
                answer = json.loads(response.read())
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.failures.append(repr(error))
                return
            if response.status == 200:
                self.ids += [p["id"] for p in answer["predictions"]]
                self.releases.append(answer["release"])
            else:
                self.failures.append(answer["error"]["problem"])


@contextmanager
def load(port: int, *, clients: int = 4) -> Iterator[Load]:
    """Clients that send one row and several rows, until the block ends."""
    seen = Load()
    threads = [threading.Thread(target=seen.client, args=(port, 1 + 9 * (i % 2))) for i in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        seen.stopping.set()
        for thread in threads:
            thread.join()


def test_every_answer_survives_kill_9_exactly_once(place: ServerHome) -> None:
    other = place.release(version=2, seed=1).digest
    place.go_live(place.release().digest, challenger=other, share=0.5, rollout="r")
    answered: list[str] = []
    for _ in range(2):
        place.start(TRIMTAB_SEGMENT_MB="0.01", TRIMTAB_COMPACT_S="0.05")
        with load(place.port) as seen:
            time.sleep(1.2)
            place.kill()
        answered += seen.ids
    kept = sorted(predictions(place.telemetry)["prediction_id"])
    assert set(predictions(place.telemetry)["arm"]) == {"champion", "challenger"}
    paired = pairs(place.telemetry, rollout="r")["prediction_id"]
    assert paired.is_unique
    assert set(paired) <= set(kept)
    assert len(answered) > 50
    assert len(kept) == len(set(kept))
    assert set(answered) <= set(kept)
    compact(place.telemetry)  # what becomes of the remains changes nothing
    # Killed between opening a segment and its first record, a writer leaves an empty one, which is kept for an hour.
    assert not [path for path in place.telemetry.glob("predictions/wal/*") if path.stat().st_size]
    assert sorted(predictions(place.telemetry)["prediction_id"]) == kept


def test_no_request_fails_while_releases_change(running: ServerHome) -> None:
    first, second = running.release(version=1), running.release(version=2, seed=1)
    running.make_live(first.digest)
    with load(running.port) as seen:
        for digest in (second.digest, first.digest, second.digest):
            assert running.post(f"/releases/{digest}/load")[0] == 200
            running.make_live(digest)
            time.sleep(0.2)
    assert seen.failures == []
    assert set(seen.releases) == {first.digest, second.digest}
    kept = predictions(running.telemetry)["prediction_id"]
    assert kept.is_unique
    assert set(seen.ids) == set(kept)
    assert running.get("/live")[1]["previous"] == first.digest


def test_a_release_that_cannot_be_loaded_leaves_the_champion_answering(running: ServerHome) -> None:
    good, bad = running.release(), running.release(version=2, seed=7)
    running.make_live(good.digest)
    (bad.path / "card.md").unlink()
    running.go_live(bad.digest)
    running.wait(lambda: "card.md" in running.get("/ready")[1]["release"], "the reason")
    status, answer = running.post("/predict", ROW)
    assert (status, answer["release"]) == (200, good.digest)
    running.make_live(good.digest)
    assert running.get("/ready")[1]["release"] == "ok"


def test_a_broken_challenger_does_not_delay_the_champion(running: ServerHome) -> None:
    good, bad = running.release(version=3, seed=8), running.release(version=4, seed=9)
    (bad.path / "card.md").unlink()
    running.go_live(good.digest, challenger=bad.digest)
    running.wait(lambda: running.get("/live")[1]["champion"] == good.digest, "the champion")
    assert "card.md" in running.get("/ready")[1]["release"]


def test_only_a_few_releases_stay_in_memory(running: ServerHome) -> None:
    made = [running.release(version=1 + i, seed=20 + i) for i in range(6)]
    for bundle in made:
        running.post(f"/releases/{bundle.digest}/load")
        running.make_live(bundle.digest)
    loaded = running.get("/live")[1]["loaded"]
    assert {made[-1].digest, made[-2].digest} <= set(loaded)
    assert len(loaded) <= 4


def test_with_a_full_disk_nothing_is_answered_until_there_is_space_again(running: ServerHome) -> None:
    """The kernel does not let the server extend files, like a full disk."""
    assert running.process is not None
    (first,) = running.post("/predict", ROW)[1]["predictions"]
    before = set(predictions(running.telemetry)["prediction_id"])
    resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
    try:
        status, answer = running.post("/predict", ROW)
        assert status == 503
        assert "File too large" in answer["error"]["problem"]
        status, ready = running.get("/ready")
        assert status == 503
        assert "telemetry" in ready["reasons"][0]
        assert "trimtab_telemetry_writable 0.0" in running.get("/metrics")[1]
        assert running.post("/labels", {"labels": [{"id": first["id"], "label": 1}]})[0] == 503
        assert set(predictions(running.telemetry)["prediction_id"]) == before
    finally:
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, unlimited)
    running.wait(lambda: running.get("/ready")[0] == 200, "ready again")
    (last,) = running.post("/predict", ROW)[1]["predictions"]
    assert set(predictions(running.telemetry)["prediction_id"]) == before | {last["id"]}
    assert "trimtab_telemetry_writable 1.0" in running.get("/metrics")[1]


def test_without_its_ledger_the_server_still_answers_and_reports_it(running: ServerHome) -> None:
    database, aside = running.home / "ledger.db", running.home / "aside.db"
    database.rename(aside)
    try:
        running.wait(lambda: running.get("/ready")[1]["ledger"] != "ok", "the trouble is told")
        assert running.get("/ready")[0] == 200
        assert running.post("/predict", ROW)[0] == 200
        assert "trimtab_ledger_up 0.0" in running.get("/metrics")[1]
    finally:
        aside.replace(database)
    running.wait(lambda: running.get("/ready")[1]["ledger"] == "ok", "the ledger is back")
