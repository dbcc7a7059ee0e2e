"""The alert rules speak of metrics that are there, fire when they should, and reach whom they should."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving.metrics.rollouts import RolloutMetrics
from serving.metrics.server import ServerMetrics
from stores.ledger import Ledger, ValidationRecord
from stores.ledger.migrations import migrate
from stores.telemetry import Recorder
from tests.infra.monitored import INFRA, Watched, needed, watching
from tests.ports import free_ports
from tests.serving.conftest import ServerHome
from tests.waiting import eventually

PROMETHEUS, ALERTMANAGER = INFRA / "prometheus", INFRA / "alertmanager"
OWN = re.compile(r"\btrimtab_\w+")
FILES = ("alerts.yaml", "loop.yaml")
ROOT = INFRA.parent


def test_the_rules_name_metrics_that_the_server_has(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    metrics = ServerMetrics(tmp_path, recorder, uploads=True)
    RolloutMetrics(Ledger(f"sqlite:///{tmp_path}/ledger.db"), metrics.registry)
    text = metrics.text().decode()
    recorder.close()
    exposed = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    rules = _rules("alerts.yaml")
    named = {re.sub(r"_(bucket|sum|count)$", "", name) for rule in rules for name in OWN.findall(rule["expr"])}
    assert named
    assert not named - exposed


def test_the_rules_name_metrics_that_the_exporter_has() -> None:
    """By its code: a metric without samples is none that could be scraped."""
    code = "".join(path.read_text() for path in (ROOT / "deployments" / "exporter").glob("*.py"))
    exposed = {f"trimtab_loop_{name}" for name in re.findall(r"(?:gauge|single)\(\s*\"(\w+)\"", code)}
    named = {name for rule in _rules("loop.yaml") for name in OWN.findall(rule["expr"])}
    assert len(named) > 15
    assert not named - exposed


def test_every_rule_has_a_severity_and_says_what_is_wrong_and_what_to_do() -> None:
    names = [rule["alert"] for rule in _alerts()]
    assert len(names) == len(set(names))
    for rule in _alerts():
        assert set(rule["annotations"]) == {"summary", "action", "runbook"}, rule["alert"]
        assert rule["labels"]["severity"] in {"page", "ticket"}, rule["alert"]


def test_every_alert_and_every_metric_is_on_its_page() -> None:
    reference = ROOT / "docs" / "reference"
    code = "".join(path.read_text() for path in (ROOT / "deployments" / "exporter").glob("*.py"))
    metrics = (reference / "metrics.md").read_text()
    told = set(re.findall(r"(?:gauge|single)\(\s*\"(\w+)\"", code))
    assert not [name for name in told if f"`trimtab_loop_{name}`" not in metrics]
    named = set(re.findall(r"\[(Trimtab\w+)\]", (reference / "alerts.md").read_text()))
    assert named == {rule["alert"] for rule in _alerts()}


@pytest.mark.parametrize("file", FILES)
def test_prometheus_fires_each_rule_when_it_should_and_none_where_all_is_well(file: str) -> None:
    tests = file.replace(".yaml", "_test.yaml")
    command = [needed("promtool"), "test", "rules", tests]
    done = subprocess.run(command, cwd=PROMETHEUS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    samples = [
        sample
        for test in _load(PROMETHEUS / tests)["tests"]
        for expected in test["promql_expr_test"]
        for sample in expected["exp_samples"]
    ]
    tested = {name for sample in samples for name in re.findall(r'alertname="(\w+)"', sample["labels"])}
    assert tested == {rule["alert"] for rule in _alerts(file)}


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Watched, ServerHome]]:
    """A model server without a release and the exporter of its loop, watched by the real things."""
    server_port, exporter_port, *ports = free_ports(5)
    place = ServerHome(tmp_path_factory.mktemp("server"), server_port)
    migrate(place.ledger)
    exporter = _exporter(place, exporter_port)
    try:
        with watching(tmp_path_factory.mktemp("watching"), ports, server_port, exporter_port) as pair:
            place.start(wait_for="/health")
            yield pair, place
    finally:
        os.killpg(exporter.pid, signal.SIGKILL)
        exporter.wait()
        if place.process is not None:
            place.kill()


def _exporter(place: ServerHome, port: int) -> subprocess.Popen[bytes]:
    """Beside the server's ledger, for the root project; there is no Prefect."""
    env = {**os.environ, "TRIMTAB_HOME": str(place.home), "TRIMTAB_PROJECT": str(ROOT)}
    env |= {"TRIMTAB_LEDGER_URL": f"sqlite:///{place.home}/ledger.db", "TRIMTAB_EXPORTER_PORT": str(port)}
    env |= {"TRIMTAB_PREFECT_URL": "http://127.0.0.1:1/api", "PREFECT_API_URL": "http://127.0.0.1:1/api"}
    command = [sys.executable, "-m", "deployments.exporter", "--every", "0.5"]
    with (place.home / "exporter.log").open("wb") as log:
        return subprocess.Popen(command, env=env, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)


def test_a_server_without_a_champion_pages_somebody_until_it_has_one(watched: tuple[Watched, ServerHome]) -> None:
    pair, place = watched
    eventually(lambda: "TrimtabNoChampion" in pair.alerts("pager", "firing"), "the page")
    (alert,) = [
        alert
        for message in pair.arrived["pager"][:9]
        for alert in message["alerts"]
        if alert["labels"]["alertname"] == "TrimtabNoChampion" and alert["status"] == "firing"
    ][:1]
    assert alert["labels"]["instance"] == f"127.0.0.1:{place.port}"
    assert "/ready says why" in alert["annotations"]["action"]
    place.go_live(place.release().digest)
    eventually(lambda: "TrimtabNoChampion" in pair.alerts("pager", "resolved"), "all is well again", within_s=30)


def test_a_refused_batch_is_a_ticket_until_one_of_that_period_is_accepted(watched: tuple[Watched, ServerHome]) -> None:
    """From the ledger through the exporter, the rules and Alertmanager to a webhook."""
    pair, place = watched
    place.ledger.record_validation(ValidationRecord("2013-03", "refused", "s", False, "it is empty", 0, 0))
    eventually(lambda: "TrimtabBatchQuarantined" in pair.alerts("tickets", "firing"), "the ticket", within_s=60)
    alert = next(
        alert
        for message in [*pair.arrived["tickets"]]
        for alert in message["alerts"]
        if alert["labels"]["alertname"] == "TrimtabBatchQuarantined"
    )
    assert alert["labels"]["job"] == "trimtab-loop"
    assert "1 new periods" in alert["annotations"]["summary"]
    assert (ROOT / alert["annotations"]["runbook"]).exists()
    place.ledger.record_validation(ValidationRecord("2013-03", "mended", "s", True, "", 1, 0))
    eventually(lambda: "TrimtabBatchQuarantined" in pair.alerts("tickets", "resolved"), "the all-clear", within_s=60)
    eventually(lambda: "TrimtabLoopBlind" in pair.alerts("tickets", "firing"), "that Prefect is away", within_s=60)


def test_a_server_that_is_down_is_one_alert_and_not_many(watched: tuple[Watched, ServerHome]) -> None:
    pair, _ = watched
    there, elsewhere = {"job": "trimtab", "instance": "a:1"}, {"job": "trimtab", "instance": "b:1"}
    pair.raise_by_hand({"alertname": "TrimtabServerDown", "severity": "page", **there})
    eventually(lambda: "TrimtabServerDown" in pair.alerts("pager", "firing"), "the page")
    pair.raise_by_hand(
        {"alertname": "TrimtabSlow", "severity": "ticket", **there},
        {"alertname": "TrimtabMemoryGrows", "severity": "ticket", **elsewhere},
    )
    eventually(lambda: "TrimtabMemoryGrows" in pair.alerts("tickets", "firing"), "the ticket")
    assert pair.raised()["TrimtabSlow"] == "suppressed"
    assert "TrimtabSlow" not in pair.alerts("tickets", "firing")
    assert "TrimtabServerDown" not in pair.alerts("tickets", "firing")


def test_alertmanager_accepts_its_configuration_but_for_addresses_in_files(tmp_path: Path) -> None:
    """Debian's is older than these (0.26), so they are written out here."""
    text = (ALERTMANAGER / "alertmanager.yaml").read_text()
    config = tmp_path / "alertmanager.yaml"
    config.write_text(re.sub(r"url_file: \S+\.url", "url: http://127.0.0.1:1/", text))
    done = subprocess.run([needed("amtool"), "check-config", config], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    done = subprocess.run([needed("promtool"), "check", "config", PROMETHEUS / "prometheus.yaml"], capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def _rules(*files: str) -> list[Any]:
    return [rule for file in files or FILES for group in _load(PROMETHEUS / file)["groups"] for rule in group["rules"]]


def _alerts(*files: str) -> list[Any]:
    return [rule for rule in _rules(*files) if "alert" in rule]


def _load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())
