"""A real server process with a real ledger, as clients and the deploy flow use it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from stores.ledger.migrations import migrate
from stores.telemetry import joined, predictions
from tests.ports import free_port
from tests.serving.conftest import ROOT, ServerHome

ROW = {"distance": 900, "hour": 7, "carrier": "UA", "scheduled": "2013-03-01T05:15:00Z", "flight": "F1", "tail": "N1"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerHome]:
    """A server with a live release, for tests that do not change it."""
    place = ServerHome(tmp_path_factory.mktemp("server"), free_port())
    try:
        place.go_live(place.release().digest)
        place.start(TRIMTAB_MAX_ROWS="1000", TRIMTAB_MAX_BODY_MB="0.5")
        yield place
    finally:
        if place.process is not None:
            place.kill()


def test_an_answer_is_in_telemetry_with_its_row(shared: ServerHome) -> None:
    before = set(predictions(shared.telemetry)["prediction_id"])
    status, answer = shared.post("/predict", {"rows": [ROW, {**ROW, "carrier": None}]})
    assert status == 200, answer
    ids = [p["id"] for p in answer["predictions"]]
    kept = predictions(shared.telemetry).set_index("prediction_id").loc[lambda t: ~t.index.isin(before)]
    assert sorted(kept.index) == sorted(ids)
    kept = kept.loc[ids]
    assert kept["prediction"].tolist() == [p["probability"] for p in answer["predictions"]]
    assert set(kept["release"]) == {answer["release"]} == {shared.get("/live")[1]["champion"]}
    first = kept.iloc[0]
    assert (first["distance"], first["carrier"], first["flight"], first["tail"]) == (900, "UA", "F1", "N1")
    assert str(first["time"]) == "2013-03-01 05:15:00+00:00"


def test_one_row_may_come_without_a_list(shared: ServerHome) -> None:
    status, answer = shared.post("/predict", ROW)
    assert status == 200
    assert shared.post("/predict", {"rows": [ROW]})[1]["predictions"][0]["probability"] == pytest.approx(
        answer["predictions"][0]["probability"], abs=0
    )


def test_many_rows_may_come_by_column(shared: ServerHome) -> None:
    rows = [ROW, {**ROW, "distance": 100}, {**ROW, "carrier": None}]
    by_column = {"columns": {name: [row[name] for row in rows] for name in ROW}}
    answers = [shared.post("/predict", body)[1]["predictions"] for body in ({"rows": rows}, by_column)]
    assert [p["probability"] for p in answers[0]] == [p["probability"] for p in answers[1]]


def test_labels_find_their_predictions(shared: ServerHome) -> None:
    ids = [p["id"] for p in shared.post("/predict", {"rows": [ROW, ROW]})[1]["predictions"]]
    body = {"labels": [{"id": ids[0], "label": 1, "time": "2013-03-02T00:00:00Z"}]}
    assert shared.post("/labels", body) == (200, {"accepted": 1, "duplicates": 0, "conflicts": 0})
    assert shared.post("/labels", body) == (200, {"accepted": 0, "duplicates": 1, "conflicts": 0})
    found = joined(shared.telemetry).set_index("prediction_id")
    assert found.loc[ids[0], "label"] == 1
    assert found.loc[[ids[1]], "label"].isna().all()


@pytest.mark.parametrize(
    ("path", "body", "status", "error"),
    [
        ("/predict", {"rows": [ROW, {**ROW, "distance": "far"}]}, 422, {"row": 1, "field": "distance", "got": "far"}),
        ("/predict", {"rows": [{**ROW, "speed": 9}]}, 422, {"row": 0, "field": "speed", "got": 9}),
        ("/predict", {"rows": []}, 422, {"row": None}),
        ("/predict", [ROW], 422, {"row": 0}),
        ("/predict", {"columns": {"distance": [1, "far"]}}, 422, {"row": 1, "field": "distance"}),
        ("/predict", {"columns": {"distance": [1], "hour": [1, 2]}}, 422, {"row": None, "field": "hour"}),
        ("/predict", {"columns": {"speed": [1]}}, 422, {"field": "speed"}),
        ("/predict", {"columns": [ROW]}, 422, {}),
        ("/predict", {"columns": {"distance": [1] * 1001}}, 413, {}),
        ("/predict", b"{", 422, {}),
        ("/predict", {"rows": [ROW] * 1001}, 413, {}),
        ("/predict", b" " * 600_000, 413, {}),
        ("/labels", {"labels": [{"id": "x", "label": 1}]}, 422, {"row": 0, "field": "id", "got": "x"}),
        ("/labels", {"labels": [{"id": "0" * 32, "label": None}]}, 422, {"row": 0, "field": "label"}),
        ("/labels", {"labels": [{"id": "0" * 32, "label": 1, "when": 1}]}, 422, {"field": "when"}),
        ("/labels", {"rows": []}, 422, {}),
        ("/nowhere", {}, 404, {}),
    ],
    ids=[
        "type",
        "unknown",
        "empty",
        "list",
        "column",
        "lengths",
        "no-column",
        "columns",
        "many",
        "json",
        "rows",
        "bytes",
        "id",
        "null",
        "extra",
        "labels",
        "path",
    ],
)
def test_errors_say_where_and_why(shared: ServerHome, path: str, body: Any, status: int, error: dict[str, Any]) -> None:
    before = len(predictions(shared.telemetry))
    got_status, answer = shared.post(path, body)
    assert got_status == status
    assert answer["error"]["problem"]
    assert answer["error"].items() >= error.items()
    assert len(predictions(shared.telemetry)) == before


def test_the_probe_compares_with_what_was_recorded(shared: ServerHome) -> None:
    good = shared.release(version=2, seed=1)
    assert shared.post(f"/releases/{good.digest}/load")[1]["version"] == 2
    status, probe = shared.post(f"/releases/{good.digest}/probe")
    assert (status, probe["ok"]) == (200, True)
    assert probe["worst_difference"] < 1e-9
    bad = shared.release(version=3, seed=1, wrong_samples=True)
    status, probe = shared.post(f"/releases/{bad.digest}/probe")
    assert (status, probe["ok"]) == (200, False)
    assert "differ" in probe["reason"]
    assert shared.get("/live")[1]["version"] == 1


def test_a_corrupt_release_is_refused_and_the_champion_stays(shared: ServerHome) -> None:
    bundle = shared.release(version=4, seed=4)
    (bundle.path / "model.skops").write_bytes(b"something else")
    status, answer = shared.post(f"/releases/{bundle.digest}/load")
    assert status == 422
    assert "model.skops" in answer["error"]["problem"]
    assert shared.post(f"/releases/{'0' * 64}/load")[0] == 404
    assert shared.post("/predict", ROW)[0] == 200


def test_the_metrics_show_requests_rows_and_the_live_release(shared: ServerHome) -> None:
    shared.post("/predict", {"rows": [ROW] * 7})
    digest = shared.get("/live")[1]["champion"]
    text = shared.get("/metrics")[1]
    assert f'trimtab_live_release{{arm="champion",backend="tables",release="{digest}",version="1"}} 1.0' in text
    assert f'trimtab_predictions_total{{arm="champion",release="{digest}"}}' in text
    assert 'trimtab_requests_total{path="/predict",status="200"}' in text
    assert "process_resident_memory_bytes" in text
    assert "trimtab_ledger_up 1.0" in text


def test_the_openapi_description_has_the_bodies(shared: ServerHome) -> None:
    schema = shared.get("/openapi.json")[1]
    body = schema["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
    assert shared.post("/predict", body["examples"]["rows"]["value"])[0] == 200
    assert shared.post("/predict", body["examples"]["columns"]["value"])[0] == 200
    assert {"PredictBody", "PredictResponse"} <= schema["components"]["schemas"].keys()
    assert shared.get("/docs")[0] == 200


def test_a_server_without_a_release_is_alive_but_not_ready_and_asks_for_its_key(place: ServerHome) -> None:
    migrate(place.ledger)
    place.start(wait_for="/health", TRIMTAB_ADMIN_KEYS="sesame")
    key = {"X-API-Key": "sesame"}
    assert place.get("/ready")[0] == 503
    status, answer = place.post("/predict", ROW, key)
    assert status == 503
    assert "deploy" in answer["error"]["problem"]
    place.go_live(place.release().digest)
    place.wait(lambda: place.get("/ready")[0] == 200, "ready once a release is live")
    assert place.post("/predict", ROW, key)[0] == 200
    assert place.post("/predict", ROW, {"Authorization": "Bearer sesame"})[0] == 200
    for wrong in ({}, {"X-API-Key": "sesam"}):
        assert place.post("/predict", ROW, wrong)[0] == 401
    assert place.get("/live")[0] == 401
    assert place.stop() in (0, -signal.SIGTERM)
    assert len(predictions(place.telemetry)) == 2


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "example.org"])
def test_it_listens_beyond_loopback_only_with_a_key(host: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "serving"],
        cwd=ROOT,
        env={"TRIMTAB_HOST": host, "TRIMTAB_LEDGER_URL": "sqlite://"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert run.returncode == 2
    assert "TRIMTAB_ADMIN_KEYS" in run.stderr


def test_a_wrong_setting_is_named_by_its_variable() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "serving"],
        cwd=ROOT,
        env={"TRIMTAB_MAX_ROWS": "none", "TRIMTAB_ADMIN_KEYS": '["sesame'},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert run.returncode == 2
    assert "TRIMTAB_LEDGER_URL" in run.stderr
    assert "TRIMTAB_MAX_ROWS" in run.stderr
    assert "sesame" not in run.stderr


def test_the_server_never_imports_the_orchestrator() -> None:
    script = (
        "import sys, serving.app, skops.io, sklearn.ensemble\n"
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'prefect', 'mlflow', 'evidently', 'dvc'}))"
    )
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("label", ["late", 5, 0.3, -1e308, "", "x" * 1000, None, [1]])
def test_what_is_no_label_of_the_task_is_refused_whole(shared: ServerHome, label: Any) -> None:
    ids = [p["id"] for p in shared.post("/predict", {"rows": [ROW] * 2})[1]["predictions"]]
    status, answer = shared.post("/labels", {"labels": [{"id": ids[0], "label": 1}, {"id": ids[1], "label": label}]})
    assert status == 422, answer
    assert (answer["error"]["row"], answer["error"]["field"]) == (1, "label")
    assert set(ids) & set(joined(shared.telemetry).dropna(subset=["label"])["prediction_id"]) == set()


def test_a_label_has_one_meaning_however_it_is_spelled(shared: ServerHome) -> None:
    (answer,) = shared.post("/predict", ROW)[1]["predictions"]
    for label in ("yes", True, 1, 1.0, "1"):
        assert shared.post("/labels", {"labels": [{"id": answer["id"], "label": label}]})[0] == 200
    found = joined(shared.telemetry).set_index("prediction_id")["label"]
    assert found[answer["id"]] == 1
    counts = shared.post("/labels", {"labels": [{"id": answer["id"], "label": "true"}]})[1]
    assert counts == {"accepted": 0, "duplicates": 1, "conflicts": 0}


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00Z", "1699-12-31T23:59:59Z", "2262-01-01", "9999-12-31T23:59:59Z"])
def test_a_time_that_frames_cannot_hold_is_refused(shared: ServerHome, time: str) -> None:
    status, answer = shared.post("/predict", {**ROW, "scheduled": time})
    assert status == 422 and "between 1700 and 2261" in answer["error"]["problem"]
