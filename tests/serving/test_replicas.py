"""Several servers follow one ledger, also after it was unavailable."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import pytest

from tests.ports import free_port
from tests.serving.conftest import ServerHome

ROW = {"distance": 900, "hour": 7, "carrier": "UA"}
WITHIN_S = 2.0


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ServerHome]]:
    """Three servers on one ledger and one folder of releases."""
    first = ServerHome(tmp_path_factory.mktemp("replicas"), free_port())
    first.go_live(first.release().digest)
    places = [first, *(replace(first, port=free_port()) for _ in range(2))]
    try:
        for place in places:
            place.start(wait_for="")
        each(places, lambda place: place.get("/ready")[0] == 200, "ready")
        yield places
    finally:
        for place in places:
            if place.process is not None:
                place.kill()


def each(places: list[ServerHome], look: Callable[[ServerHome], object], what: str) -> None:
    """Wait for *look* at every place."""
    for place in places:
        place.wait(partial(look, place), what)


def followed_s(replicas: list[ServerHome], digest: str) -> float:
    """Seconds until every replica answers by *digest*."""
    started = time.monotonic()
    each(replicas, lambda place: place.post("/predict", ROW)[1]["release"] == digest, f"{digest} answers")
    return time.monotonic() - started


def test_all_follow_a_promotion_and_a_rollback_within_two_seconds(replicas: list[ServerHome]) -> None:
    before, after = replicas[0].release(), replicas[0].release(version=2, seed=1)
    for digest in (after.digest, before.digest, after.digest):
        replicas[0].go_live(digest)
        assert followed_s(replicas, digest) < WITHIN_S


def test_all_still_answer_without_the_ledger_and_follow_when_it_is_back(replicas: list[ServerHome]) -> None:
    before, after = replicas[0].release(), replicas[0].release(version=2, seed=1)
    replicas[0].go_live(before.digest)
    followed_s(replicas, before.digest)
    database, aside = replicas[0].home / "ledger.db", replicas[0].home / "aside.db"
    database.rename(aside)
    each(replicas, lambda place: place.get("/ready")[1]["ledger"] != "ok", "the trouble is told")
    for place in replicas:
        assert place.post("/predict", ROW)[1]["release"] == before.digest
        assert "trimtab_ledger_up 0.0" in place.get("/metrics")[1]
    time.sleep(1.0)
    aside.replace(database)
    replicas[0].go_live(after.digest)
    assert followed_s(replicas, after.digest) < WITHIN_S
