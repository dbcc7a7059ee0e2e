"""The server's Prometheus metrics have the right values."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from serving.app import ModelServer
from serving.background import DecisionMetrics
from stores.ledger import Ledger
from stores.ledger.records import DecisionRecord
from tests.ports import free_port
from tests.serving.asgi import metric, server_of, together
from tests.serving.conftest import ServerHome
from trimtab.evaluation.monitoring import Facts, Quality

ROW = {"distance": 900, "hour": 7, "carrier": "UA"}


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> ServerHome:
    """A rollout whose challenger answers half of the keys."""
    there = ServerHome(tmp_path_factory.mktemp("metrics"), free_port())
    other = there.release(version=2, seed=1).digest
    there.go_live(there.release().digest, challenger=other, share=0.5, rollout="half")
    return there


@pytest.fixture
def server(place: ServerHome) -> Iterator[ModelServer]:
    """A server in this process."""
    made = server_of(place)
    yield made
    made.recorder.close()
    made.guard.close()


def test_answers_are_counted_by_release_and_arm_and_errors_by_kind(place: ServerHome, server: ModelServer) -> None:
    sent = [{"rows": [{**ROW, "tail": f"N{i}"}]} for i in range(50)]
    answers = together(server, "/predict", [*sent, {"rows": [{"speed": 1}]}, b"{"])
    by = [answer["release"] for status, answer in answers if status == 200]
    live = place.ledger.live()
    assert live is not None
    for arm, release in (("champion", live.champion), ("challenger", str(live.challenger))):
        assert metric(server, "trimtab_predictions_total", release=release, arm=arm) == by.count(release) > 0
        assert metric(server, "trimtab_model_seconds_count", release=release) >= 1
        version = "1" if arm == "champion" else "2"
        assert metric(server, "trimtab_live_release", release=release, version=version, arm=arm, backend="tables") == 1
    assert metric(server, "trimtab_challenger_rows_total", release=str(live.challenger), outcome="ok") == 50
    assert metric(server, "trimtab_requests_total", path="/predict", status="200") == 50
    assert metric(server, "trimtab_requests_total", path="/predict", status="422") == 2
    assert metric(server, "trimtab_errors_total", kind="input") == 2
    assert metric(server, "trimtab_request_seconds_count", path="/predict") == 52
    assert metric(server, "trimtab_request_seconds_bucket", path="/predict", le="+Inf") == 52
    assert metric(server, "trimtab_microbatch_rows_sum") == 50
    assert metric(server, "trimtab_rollout_share") == 0.5
    assert metric(server, "trimtab_telemetry_rows_total", stream="predictions") == 50
    assert metric(server, "trimtab_telemetry_rows_total", stream="pairs") == 50
    assert metric(server, "trimtab_telemetry_writing_seconds_total") > 0
    assert 0 <= metric(server, "trimtab_ledger_age_seconds") < 60
    text = server.metrics.text().decode()
    assert "process_cpu_seconds_total" in text
    assert "process_resident_memory_bytes" in text


def test_drift_and_quality_of_the_last_period_are_shown(place: ServerHome, server: ModelServer) -> None:
    ledger: Ledger = place.ledger
    for number, (period, live) in enumerate((("2013-03", 0.71), ("2013-04", 0.66))):
        facts = Facts(
            period=period,
            release="r",
            rows=9,
            quality=Quality(metric="roc_auc", live=live, promised=0.75, labels=500),
        )
        evidence = {"facts": facts.model_dump(mode="json"), "impact": 0.25 + number}
        ledger.record_decision(DecisionRecord(period, period, "r", "none", "a test", evidence))
        DecisionMetrics(ledger, server.metrics).run_once()
    assert metric(server, "trimtab_drift_impact", period="2013-03") == 0
    assert metric(server, "trimtab_quality", metric="roc_auc", kind="promised") == 0.75
    assert metric(server, "trimtab_drift_impact", period="2013-04") == pytest.approx(1.25)
    assert metric(server, "trimtab_quality", metric="roc_auc", kind="live") == 0.66


def test_requests_in_flight_are_counted_only_while_they_run(server: ModelServer) -> None:
    assert metric(server, "trimtab_requests_in_flight") == 0
    together(server, "/predict", [{"rows": [ROW]}, b"{", {"rows": [{"speed": 1}]}])
    assert metric(server, "trimtab_requests_in_flight") == 0
    server.metrics.requests.in_flight += 1
    assert metric(server, "trimtab_requests_in_flight") == 1
