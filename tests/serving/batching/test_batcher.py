"""Concurrent requests are scored together, without an effect on their answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

from serving.app import ModelServer
from stores.telemetry import pairs, predictions
from tests.ports import free_port
from tests.serving.asgi import ask, metric, server_of, together
from tests.serving.conftest import ServerHome
from tests.serving.faulty_model import TRIGGER, TYPE, faulty_release

ROW = {"distance": 900, "hour": 7, "carrier": "UA", "scheduled": "2013-03-01T05:15:00Z"}


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> ServerHome:
    """A state folder with a live release."""
    place = ServerHome(tmp_path_factory.mktemp("batches"), free_port())
    place.go_live(place.release().digest)
    return place


@pytest.fixture(scope="module")
def server(there: ServerHome) -> Iterator[ModelServer]:
    """A server in this process."""
    made = server_of(there)
    yield made
    made.recorder.close()
    made.guard.close()


def rows_of(place: ServerHome, answers: list[Any]) -> list[dict[str, Any]]:
    """The telemetry row of each prediction in *answers*, in their order."""
    kept = predictions(place.telemetry).set_index("prediction_id")
    ids = [p["id"] for _, answer in answers for p in answer["predictions"]]
    return [{**kept.loc[i].to_dict(), "id": i} for i in ids]


def test_concurrent_requests_are_scored_by_one_call(there: ServerHome, server: ModelServer) -> None:
    before = metric(server, "trimtab_microbatch_rows_count"), metric(server, "trimtab_microbatch_rows_sum")
    asked = [{**ROW, "distance": 100 + i} for i in range(30)]
    answers = together(server, "/predict", [{"rows": [row]} for row in asked])
    assert [status for status, _ in answers] == [200] * 30
    after = metric(server, "trimtab_microbatch_rows_count"), metric(server, "trimtab_microbatch_rows_sum")
    assert (after[0] - before[0], after[1] - before[1]) == (1, 30)
    assert [row["distance"] for row in rows_of(there, answers)] == [row["distance"] for row in asked]


def test_an_answer_does_not_depend_on_concurrent_requests(there: ServerHome, server: ModelServer) -> None:
    asked: list[Any] = [
        {
            "rows": [
                {**ROW, "distance": 200 * i, "carrier": ["UA", "DL", None, "new"][i % 4]} for i in range(first, last)
            ]
        }
        for first, last in ((0, 1), (1, 4), (4, 5), (5, 12))
    ]
    asked += [ROW, {"hour": 3, "distance": 1}, {"rows": [{}]}, {"rows": [{"carrier": "DL"}, ROW]}]
    alone = [together(server, "/predict", [body])[0] for body in asked]
    for found, wanted in zip(together(server, "/predict", asked), alone, strict=True):
        assert [p["probability"] for p in found[1]["predictions"]] == pytest.approx(
            [p["probability"] for p in wanted[1]["predictions"]], abs=1e-12
        )


def test_a_bad_request_fails_alone(there: ServerHome, server: ModelServer) -> None:
    before = len(predictions(there.telemetry))
    answers = together(
        server,
        "/predict",
        [
            {"rows": [ROW]},
            {"rows": [{**ROW, "distance": "far"}]},
            {"rows": [ROW, ROW, {**ROW, "speed": 1}]},
            b"{",
            {"rows": []},
            {"rows": [ROW] * 3},
            {"rows": [ROW, {**ROW, "hour": True}]},
            {"rows": [{**ROW, "scheduled": "noon"}]},
            [ROW],
            ROW,
        ],
    )
    assert [status for status, _ in answers] == [200, 422, 422, 422, 422, 200, 422, 422, 422, 200]
    where = [(a["error"].get("row"), a["error"].get("field")) for status, a in answers if status == 422]
    assert where[:2] == [(0, "distance"), (2, "speed")]
    assert where[4:6] == [(1, "hour"), (0, "scheduled")]
    assert len(predictions(there.telemetry)) == before + 5
    assert len(rows_of(there, [a for a in answers if a[0] == 200])) == 5


def test_many_requests_become_several_microbatches(there: ServerHome, server: ModelServer) -> None:
    answers = together(server, "/predict", [{"rows": [ROW] * 60} for _ in range(20)])
    assert {status for status, _ in answers} == {200}
    ids = [p["id"] for _, a in answers for p in a["predictions"]]
    assert len(set(ids)) == 1200


@pytest.fixture
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Servers with a faulty champion."""
    place, made = ServerHome(tmp_path_factory.mktemp("faulty"), free_port()), []

    def start(mode: str, **settings: Any) -> ModelServer:
        place.go_live(faulty_release(place, mode, version=1).digest)
        made.append(server_of(place, trusted_types=(TYPE,), **settings))
        return made[-1]

    yield start
    for server in made:
        server.recorder.close()
        server.guard.close()


@pytest.mark.parametrize("mode", ["raise", "nan", "range", "shape", "exit"])
def test_rows_that_a_champion_cannot_answer_fail_alone(faulty: Any, mode: str) -> None:
    server = faulty(mode)
    bad = {**ROW, "distance": TRIGGER}
    answers = together(
        server, "/predict", [{"rows": [ROW]}, {"rows": [bad]}, {"rows": [ROW, bad]}, {"rows": [ROW] * 2}]
    )
    assert [status for status, _ in answers] == [200, 500, 500, 200]
    assert "the model" in answers[1][1]["error"]["problem"]
    assert metric(server, "trimtab_errors_total", kind="model") == 2


def test_a_slow_champion_never_blocks_the_event_loop_and_its_requests_expire(faulty: Any) -> None:
    """The model sleeps 1.5 s; requests time out after half a second, and others are answered meanwhile."""
    server = faulty("slow", answer_s=0.5, max_waiting=3)

    async def play() -> tuple[list[Any], float, list[Any]]:
        slow = asyncio.gather(*(ask(server, "/predict", {**ROW, "distance": TRIGGER}) for _ in range(2)))
        await asyncio.sleep(0.1)
        queue = asyncio.gather(*(ask(server, "/predict", ROW) for _ in range(5)))
        started = time.monotonic()
        status, _ = await ask(server, "/health", b"", method="GET")
        took_s = time.monotonic() - started
        assert status == 200
        return await slow, took_s, await queue

    slow, took_s, queue = asyncio.run(play())
    assert took_s < 0.3
    assert [status for status, _ in slow] == [503, 503]
    assert "TRIMTAB_ANSWER_S" in slow[0][1]["error"]["problem"]
    assert sorted(a["error"]["problem"][:8] for _, a in queue) == ["no answe"] * 3 + ["too many"] * 2


def test_a_hanging_challenger_uses_no_memory_and_its_missing_answers_become_errors(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its queue is bounded. Pairs beyond it are lost at first; after a while they are recorded as its errors."""
    monkeypatch.setattr("serving.batching.batcher._STUCK_S", 1.0)
    place = ServerHome(tmp_path_factory.mktemp("hang"), free_port())
    other = faulty_release(place, "hang", version=2)
    place.go_live(place.release().digest, challenger=other.digest, rollout="hang")
    server = server_of(place, trusted_types=(TYPE,))

    def ask_often(times: int) -> None:
        for _ in range(times):
            assert together(server, "/predict", [ROW])[0][0] == 200

    assert together(server, "/predict", [{**ROW, "distance": TRIGGER}])[0][0] == 200
    ask_often(100)
    lost = metric(server, "trimtab_pairs_lost_total")
    assert lost >= 100 - 64
    assert pairs(place.telemetry, rollout="hang").empty
    time.sleep(1.1)
    ask_often(5)
    found = pairs(place.telemetry, rollout="hang")
    assert found["error"].tolist() == ["no answer within 1 s"] * 5
    assert metric(server, "trimtab_pairs_lost_total") == lost
    assert len(predictions(place.telemetry)) == 106
    server.recorder.close()
    server.guard.close()


def test_endless_bodies_and_bodies_that_take_too_much_memory_are_rejected(there: ServerHome) -> None:
    server = server_of(there, answer_s=0.2, max_held_mb=0.01)

    async def endless() -> list[int]:
        said: list[Any] = []

        async def receive() -> dict[str, Any]:
            if not said:
                said.append(None)
                return {"type": "http.request", "body": b"{", "more_body": True}
            await asyncio.sleep(60)
            raise AssertionError

        async def send(message: dict[str, Any]) -> None:
            said.append(message)

        await server.app({"type": "http", "method": "POST", "path": "/predict", "headers": []}, receive, send)
        return [m["status"] for m in said if m and m["type"] == "http.response.start"]

    assert asyncio.run(endless()) == [408]
    assert together(server, "/predict", [b" " * 20_000])[0][0] == 503
    assert together(server, "/predict", [ROW])[0][0] == 200
    server.recorder.close()
    server.guard.close()
