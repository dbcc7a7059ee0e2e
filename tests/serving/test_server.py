"""The running server: a real process, a real ledger."""

from __future__ import annotations

from stores.telemetry import joined, predictions
from tests.serving.conftest import Place

ROW = {"distance": 900, "hour": 7, "carrier": "UA", "scheduled": "2013-03-01T05:15:00Z", "flight": "F1", "tail": "N1"}


def test_an_answer_is_in_telemetry_with_its_row(place: Place) -> None:
    bundle = place.release()
    place.go_live(bundle.digest)
    place.start()
    status, answer = place.post("/predict", {"rows": [ROW, {**ROW, "carrier": None}]})
    assert status == 200, answer
    assert answer["release"] == bundle.digest
    kept = predictions(place.telemetry)
    assert kept["prediction_id"].tolist() == [p["id"] for p in answer["predictions"]]
    assert kept["prediction"].tolist() == [p["probability"] for p in answer["predictions"]]
    status, counts = place.post("/labels", {"labels": [{"id": answer["predictions"][0]["id"], "label": 1}]})
    assert (status, counts["accepted"]) == (200, 1)
    assert joined(place.telemetry)["label"].tolist()[0] == 1
