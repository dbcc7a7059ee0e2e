"""The alert rules speak of metrics that the model server has, and fire when they should."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving.metrics import Metrics
from stores.telemetry import Recorder

PROMETHEUS = Path(__file__).resolve().parent.parent.parent / "infra" / "prometheus"
OWN = re.compile(r"\btrimtab_\w+")


def test_the_rules_name_metrics_that_the_server_has(tmp_path: Path) -> None:
    exposed = set(re.findall(r"^# TYPE (\S+)", Metrics(tmp_path, Recorder(tmp_path)).text().decode(), re.MULTILINE))
    rules = [rule for group in _load("alerts.yaml")["groups"] for rule in group["rules"]]
    named = {name.removesuffix("_bucket") for rule in rules for name in OWN.findall(rule["expr"])}
    assert len(rules) == len({rule["alert"] for rule in rules})
    assert named
    assert not named - exposed


def test_every_rule_says_what_is_wrong_and_what_to_do() -> None:
    for group in _load("alerts.yaml")["groups"]:
        for rule in group["rules"]:
            assert set(rule["annotations"]) == {"summary", "action"}, rule["alert"]


def test_prometheus_fires_each_rule_when_it_should_and_none_on_a_healthy_server() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("there is no promtool: apt-get install prometheus")
    done = subprocess.run(
        [promtool, "test", "rules", "alerts_test.yaml"], cwd=PROMETHEUS, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    fired = _load("alerts_test.yaml")["tests"][1]["promql_expr_test"][0]["exp_samples"]
    tested = {name for sample in fired for name in re.findall(r'alertname="(\w+)"', sample["labels"])}
    assert tested == {rule["alert"] for group in _load("alerts.yaml")["groups"] for rule in group["rules"]}


def _load(name: str) -> Any:
    return yaml.safe_load((PROMETHEUS / name).read_text())
