"""Answers during a rollout: each key gets the right release, and the challenger's failures have no effect."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest

from stores.telemetry import pairs, predictions
from tests.ports import free_port
from tests.serving.conftest import ServerHome
from tests.serving.faulty_model import SAYS, TRIGGER, faulty_release, trusting
from trimtab.rollout.assignment import bucket

ROW = {"distance": 900, "hour": 7, "carrier": "UA", "scheduled": "2013-03-01T05:15:00Z"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerHome]:
    """A server that takes models from the project's own module, with a good champion."""
    place = ServerHome(tmp_path_factory.mktemp("rollouts"), free_port())
    try:
        place.go_live(place.release().digest)
        place.start(TRIMTAB_CHALLENGER_S="0.7", **trusting(place.home))
        yield place
    finally:
        if place.process is not None:
            place.kill()


def champion(place: ServerHome) -> str:
    return str(place.ledger.history()[0].champion)


def answered(place: ServerHome, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each row's answer, with the release that gave it."""
    status, answer = place.post("/predict", {"rows": rows})
    assert status == 200, answer
    return [{"release": answer["release"], **p} for p in answer["predictions"]]


def settled(place: ServerHome, rollout: str, size: int) -> pd.DataFrame:
    """The pairs of *rollout*, once there are as many."""
    place.wait(lambda: len(pairs(place.telemetry, rollout=rollout)) >= size, f"{size} pairs of {rollout}")
    return pairs(place.telemetry, rollout=rollout).set_index("prediction_id")


def test_a_key_stays_with_its_release_as_the_share_rises(running: ServerHome) -> None:
    first, other = champion(running), faulty_release(running, "fine", version=2).digest
    rows = [{**ROW, "tail": f"N{i}"} for i in range(200)]
    before: set[str] = set()
    for share in (0.0, 0.05, 0.25, 0.5, 1.0):
        running.make_live(first, challenger=other, share=share, rollout="rising")
        given = answered(running, rows)
        chosen = {str(r["tail"]) for r, p in zip(rows, given, strict=True) if p["release"] == other}
        assert chosen == {str(r["tail"]) for r in rows if bucket("rising", str(r["tail"])) < share}
        assert before <= chosen
        assert all((p["probability"] == SAYS) == (p["release"] == other) for p in given)
        before = chosen
    kept = predictions(running.telemetry)
    mine = kept[kept["rollout"] == "rising"]
    assert len(mine) == 1000
    assert set(mine.loc[mine["arm"] == "challenger", "release"]) == {other}
    assert set(mine.loc[mine["arm"] == "champion", "release"]) == {first}
    propensity = mine.groupby("arm")["propensity"].agg(set)
    assert propensity["champion"] == {1.0, 0.95, 0.75, 0.5}
    assert propensity["challenger"] == {0.05, 0.25, 0.5, 1.0}
    found = settled(running, "rising", 1000)
    assert found.index.is_unique
    assert set(found.index) == set(mine["prediction_id"])
    assert (found["challenger_prediction"] == SAYS).all()
    told = mine.set_index("prediction_id")["arm"].reindex(found.index) == "challenger"
    assert (found["by_challenger"] == told).all()


def test_rows_that_the_challenger_answered_name_its_release(running: ServerHome) -> None:
    first, other = champion(running), faulty_release(running, "fine", version=2).digest
    running.make_live(first, challenger=other, share=0.5, rollout="named")
    tails = [f"N{i}" for i in range(40)]
    by_other = [bucket("named", tail) < 0.5 for tail in tails]
    status, answer = running.post("/predict", {"rows": [{**ROW, "tail": tail} for tail in tails]})
    assert (status, answer["release"], answer["version"]) == (200, first, 1)
    named = [(p.get("release"), p.get("version")) for p in answer["predictions"]]
    assert named == [(other, 2) if is_other else (None, None) for is_other in by_other]
    tail = tails[by_other.index(True)]
    status, answer = running.post("/predict", {**ROW, "tail": tail})
    assert (answer["release"], answer["version"], "release" in answer["predictions"][0]) == (other, 2, False)


def test_the_arm_depends_on_the_key_else_the_id_else_the_prediction_id(running: ServerHome) -> None:
    first, other = champion(running), faulty_release(running, "fine", version=2).digest
    running.make_live(first, challenger=other, share=0.5, rollout="keyless")
    by_id = answered(running, [{**ROW, "flight": f"F{i}"} for i in range(30)])
    assert [p["release"] == other for p in by_id] == [bucket("keyless", f"F{i}") < 0.5 for i in range(30)]
    bare = answered(running, [ROW] * 30)
    assert [p["release"] == other for p in bare] == [bucket("keyless", p["id"]) < 0.5 for p in bare]


@pytest.mark.parametrize(
    ("mode", "error"),
    [
        ("raise", "ValueError: no idea of such distances"),
        ("exit", "SystemExit: 3"),
        ("shape", "shape"),
        ("range", "out of range: 1.7"),
        ("nan", None),
    ],
)
def test_a_failing_challenger_has_no_effect_on_users(running: ServerHome, mode: str, error: str | None) -> None:
    first, other = champion(running), faulty_release(running, mode, version=3).digest
    running.make_live(first, challenger=other, share=0.6, rollout=mode)
    rows = [{**ROW, "tail": f"N{i}", "distance": TRIGGER if i % 10 == 3 else 500} for i in range(40)]
    for _ in range(3):
        given = answered(running, rows) + [answered(running, [row])[0] for row in rows[:15]]
        for row, p in zip(rows + rows[:15], given, strict=True):
            expected = bucket(mode, str(row["tail"])) < 0.6 and row["distance"] != TRIGGER
            assert (p["release"] == other) == expected
            assert 0 <= p["probability"] <= 1
    found = settled(running, mode, 165)
    bad = predictions(running.telemetry).set_index("prediction_id").reindex(found.index)["distance"] == TRIGGER
    assert (found["challenger_prediction"].isna() == bad).all()
    if error is None:
        assert found["error"].isna().all()
    else:
        assert found.loc[bad, "error"].str.contains(error).all()
        assert found.loc[~bad, "error"].isna().all()
    assert not found.loc[bad, "by_challenger"].any()


@pytest.mark.parametrize("mode", ["raise", "nan"])
def test_in_probation_the_previous_champion_answers_what_the_new_one_fails(running: ServerHome, mode: str) -> None:
    """Users get an answer, and the pairs record the failure, so that the probation sees it."""
    first, new = champion(running), faulty_release(running, mode, version=6).digest
    rollout = f"probation-{mode}"
    running.ledger.start_rollout(rollout, release=new, champion_before=first, strategy="rollout", cause="test")
    running.make_live(new, challenger=first, rollout=rollout)
    rows = [{**ROW, "tail": f"N{i}", "distance": TRIGGER if i % 5 == 0 else 500} for i in range(20)]
    given = [answered(running, [row])[0] for row in rows]
    assert [p["release"] for p in given] == [first if row["distance"] == TRIGGER else new for row in rows]
    found = settled(running, rollout, 20)
    failed = found[found["challenger"] == new]
    assert len(failed) == 4
    assert failed["challenger_prediction"].isna().all()
    assert (found.loc[found["champion"] == new, "champion_prediction"] == SAYS).all()
    running.make_live(first)


def test_the_champion_answers_when_the_challenger_takes_too_long(running: ServerHome) -> None:
    first, other = champion(running), faulty_release(running, "slow", version=4).digest
    running.make_live(first, challenger=other, share=1.0, rollout="slow")
    answered(running, [ROW])
    for _ in range(3):
        started = time.monotonic()
        (given,) = answered(running, [{**ROW, "distance": TRIGGER}])
        assert time.monotonic() - started < 1.4
        assert given["release"] == first
    found = settled(running, "slow", 4)
    assert (found["challenger_us"] > 1_400_000).sum() == 3
    assert found["challenger_prediction"].notna().all()
    assert found["error"].isna().all()


def test_a_slow_challenger_in_the_shadow_delays_no_request(running: ServerHome) -> None:
    first, other = champion(running), faulty_release(running, "slow", version=4).digest
    running.make_live(first, challenger=other, share=0.0, rollout="slow-shadow")
    took = []
    for _ in range(4):
        started = time.monotonic()
        answered(running, [{**ROW, "distance": TRIGGER}])
        took.append(time.monotonic() - started)
    assert max(took) < 0.7
    assert len(settled(running, "slow-shadow", 2)) <= 4


def test_pairs_have_the_slice_columns(running: ServerHome) -> None:
    first, other = champion(running), faulty_release(running, "fine", version=2).digest
    running.ledger.start_rollout(
        "sliced", release=other, champion_before=first, strategy="shadow", cause="test",
        policy={"slices": {"carrier": 0.01}},
    )  # fmt: skip
    running.make_live(first, challenger=other, rollout="sliced")
    answered(running, [{**ROW, "carrier": carrier} for carrier in ("UA", "DL", None)])
    assert sorted(settled(running, "sliced", 3)["carrier"].fillna("-")) == ["-", "DL", "UA"]


def test_a_challenger_gets_columns_that_only_it_has(running: ServerHome) -> None:
    """Clients may send a column that only the challenger has as soon as the rollout starts."""
    first = champion(running)
    other = running.release(version=9, seed=3, extra="gate").digest
    assert running.post("/predict", {**ROW, "gate": 4})[0] == 422
    running.make_live(first, challenger=other, rollout="columns")
    assert running.post("/predict", {**ROW, "gate": 4})[0] == 200
    assert running.post("/predict", {"rows": [ROW, {**ROW, "gate": None}]})[0] == 200
    assert running.post("/predict", {"columns": {"distance": [1, 2], "gate": [1, 2]}})[0] == 200
    found = settled(running, "columns", 5)
    assert found["challenger_prediction"].notna().all()
    assert running.post("/predict", {**ROW, "gates": 4})[0] == 422


def test_no_request_fails_while_a_rollout_goes_on(running: ServerHome) -> None:
    first, other = champion(running), faulty_release(running, "raise", version=3).digest
    stopping = threading.Event()
    failures: list[Any] = []
    sent: list[str] = []

    def client(number: int) -> None:
        while not stopping.is_set():
            row = {**ROW, "tail": f"N{number}", "distance": TRIGGER if len(sent) % 5 == 0 else 300}
            status, answer = running.post("/predict", row)
            sent.append(answer["predictions"][0]["id"]) if status == 200 else failures.append(answer)

    threads = [threading.Thread(target=client, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for share in (0.0, 0.5, 0.9, 0.0):
        running.make_live(first, challenger=other, share=share, rollout="busy")
        time.sleep(0.2)
    running.make_live(other, challenger=first, rollout="probation")
    running.make_live(first)
    stopping.set()
    for thread in threads:
        thread.join()
    assert failures == [] or all("no idea" in json.dumps(f) for f in failures)  # as champion it fails for everybody
    kept = predictions(running.telemetry)
    assert kept["prediction_id"].is_unique
    assert set(sent) <= set(kept["prediction_id"])


def test_a_challenger_that_crashes_the_server_is_refused_after_two_crashes(place: ServerHome) -> None:
    first, other = place.release().digest, faulty_release(place, "die", version=2).digest
    place.go_live(first, challenger=other, share=0.0, rollout="deadly")
    for _ in range(2):
        place.start(**trusting(place.home))
        assert place.get("/live")[1]["refused"] == {}
        assert place.post("/predict", ROW)[0] == 200
        place.post("/predict", {**ROW, "distance": TRIGGER})  # in the shadow, so this one is still answered
        assert place.process is not None
        place.process.wait(timeout=10)
    place.start(**trusting(place.home))
    assert "crashed 2 times" in place.get("/live")[1]["refused"][other]
    assert place.get("/ready")[0] == 200
    assert f'trimtab_challenger_refused{{release="{other}"}} 1.0' in place.get("/metrics")[1]
    status, answer = place.post("/predict", {**ROW, "distance": TRIGGER})
    assert (status, answer["release"]) == (200, first)
    name = answer["predictions"][0]["id"]
    place.wait(lambda: name in set(pairs(place.telemetry, rollout="deadly")["prediction_id"]), "its pair")
    assert "refused" in settled(place, "deadly", 1).loc[name, "error"]
    place.make_live(first, challenger=other, rollout="again")
    assert place.get("/live")[1]["refused"] == {}
    place.make_live(first)
    assert place.post("/predict", {**ROW, "distance": TRIGGER})[0] == 200
