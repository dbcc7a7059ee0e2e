"""The alert rules speak of metrics that the model server has, fire when they should, and reach whom they should."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving.metrics import Metrics
from serving.progress import Progress
from stores.ledger import Ledger
from stores.telemetry import Recorder
from tests.conftest import free_ports
from tests.infra.monitored import INFRA, Watched, needed, wait, watching
from tests.serving.conftest import Place

PROMETHEUS, ALERTMANAGER = INFRA / "prometheus", INFRA / "alertmanager"
OWN = re.compile(r"\btrimtab_\w+")


def test_the_rules_name_metrics_that_the_server_has(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    metrics = Metrics(tmp_path, recorder)
    Progress(Ledger(f"sqlite:///{tmp_path}/ledger.db"), metrics.registry)
    text = metrics.text().decode()
    recorder.close()
    exposed = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    named = {re.sub(r"_(bucket|sum|count)$", "", name) for rule in _rules() for name in OWN.findall(rule["expr"])}
    assert named
    assert not named - exposed


def test_every_rule_has_a_severity_and_says_what_is_wrong_and_what_to_do() -> None:
    names = [rule["alert"] for rule in _alerts()]
    assert len(names) == len(set(names))
    for rule in _alerts():
        assert set(rule["annotations"]) == {"summary", "action"}, rule["alert"]
        assert rule["labels"]["severity"] in {"page", "ticket"}, rule["alert"]


def test_every_alert_is_in_the_readme() -> None:
    named = set(re.findall(r"`(Trimtab\w+)`", (INFRA / "README.md").read_text()))
    assert named == {rule["alert"] for rule in _alerts()}


def test_prometheus_fires_each_rule_when_it_should_and_none_on_a_healthy_server() -> None:
    command = [needed("promtool"), "test", "rules", "alerts_test.yaml"]
    done = subprocess.run(command, cwd=PROMETHEUS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    samples = [
        sample
        for test in _load(PROMETHEUS / "alerts_test.yaml")["tests"]
        for expected in test["promql_expr_test"]
        for sample in expected["exp_samples"]
    ]
    tested = {name for sample in samples for name in re.findall(r'alertname="(\w+)"', sample["labels"])}
    assert tested == {rule["alert"] for rule in _alerts()}


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Watched, Place]]:
    """A model server without a release, watched by the real things."""
    server_port, *ports = free_ports(4)
    place = Place(tmp_path_factory.mktemp("server"), server_port)
    place.ledger.create()
    try:
        with watching(tmp_path_factory.mktemp("watching"), ports, server_port) as pair:
            place.start(wait_for="/health")
            yield pair, place
    finally:
        if place.process is not None:
            place.kill()


def test_a_server_without_a_champion_pages_somebody_until_it_has_one(watched: tuple[Watched, Place]) -> None:
    pair, place = watched
    wait(lambda: "TrimtabNobodyIsLive" in pair.alerts("pager", "firing"), "the page")
    (alert,) = [
        alert
        for message in pair.arrived["pager"][:9]
        for alert in message["alerts"]
        if alert["labels"]["alertname"] == "TrimtabNobodyIsLive" and alert["status"] == "firing"
    ][:1]
    assert alert["labels"]["instance"] == f"127.0.0.1:{place.port}"
    assert "/ready says why" in alert["annotations"]["action"]
    place.go_live(place.release().digest)
    wait(lambda: "TrimtabNobodyIsLive" in pair.alerts("pager", "resolved"), "all is well again", timeout_s=30)


def test_a_server_that_is_down_is_one_alert_and_not_many(watched: tuple[Watched, Place]) -> None:
    pair, _ = watched
    there, elsewhere = {"job": "trimtab", "instance": "a:1"}, {"job": "trimtab", "instance": "b:1"}
    pair.raise_by_hand({"alertname": "TrimtabServerDown", "severity": "page", **there})
    wait(lambda: "TrimtabServerDown" in pair.alerts("pager", "firing"), "the page")
    pair.raise_by_hand(
        {"alertname": "TrimtabSlow", "severity": "ticket", **there},
        {"alertname": "TrimtabMemoryGrows", "severity": "ticket", **elsewhere},
    )
    wait(lambda: "TrimtabMemoryGrows" in pair.alerts("tickets", "firing"), "the ticket")
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


def _rules() -> list[Any]:
    return [rule for group in _load(PROMETHEUS / "alerts.yaml")["groups"] for rule in group["rules"]]


def _alerts() -> list[Any]:
    return [rule for rule in _rules() if "alert" in rule]


def _load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())
