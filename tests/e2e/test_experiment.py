"""An A/B experiment on the running stack, by the command that people use: users are split, both score everything, and
the champion from before answers again when its time is over."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from stores import telemetry
from tests.conftest import Stack
from tests.e2e.conftest import ended, same_champion, started
from tests.waiting import eventually
from trimtab.config import params

pytestmark = pytest.mark.e2e

# Three days of December, which nobody else asks about, and their labels.
USERS = """
import sys
import pandas as pd
from deployments.replay.traffic import Traffic
from tasks import sources
from trimtab.config import params
from trimtab.config.settings import Settings
place = Settings(); project = params.load(place.root)
rows = sources.fetch(place.root, project, project.parse_period("2013-12"))
time = rows[project.columns.time]
rows = rows[time < time.min() + pd.Timedelta("3d")]
traffic = Traffic(place.model_server, project.columns)
print(len(traffic.send(rows)))
traffic.deliver(time.max())
"""


def test_two_releases_answer_side_by_side_until_the_time_is_over(stack: Stack) -> None:
    with same_champion(stack) as champion:
        other = next(r.digest for r in stack.ledger.releases() if r.digest != champion)
        ask = ("experiment", "start", other, champion, "--share", "0.4", "--for", "1d", "--name", "side-by-side")
        assert "no label has arrived yet" in stack.trimtab(*ask).stdout
        assert live(stack) == (other, champion, 0.4, "experiment")

        rows = int(stack.python(USERS).stdout)
        eventually(lambda: reconciled(stack), "the experiment's end", within_s=80)
        report = json.loads(stack.trimtab("experiment", "report", "--json").stdout)

        assert (report["state"], report["reason"]) == ("ended", "1d of data went by")
        assert live(stack) == (champion, None, 0.0, "close")
        assert [move.move for move in stack.ledger.history()[-2:]] == ["experiment", "close"]
        assert report["pairs"] == rows
        assert report["a"]["answers"] + report["b"]["answers"] == rows
        assert 0 < report["effect"]["labels"] <= rows
        assert report["effect"]["low"] <= report["effect"]["difference"] <= report["effect"]["high"]
        assert report["sample_ratio"]["unit"] == "keys"
        assert report["sample_ratio"]["holds"]
        assert sticky(stack)

        asked = {"a": other, "b": champion, "share": 0.4, "duration": "1d", "name": "side-by-side"}
        assert ended(stack, started(stack, "experiment/on-request", **asked))["state_type"] == "COMPLETED"
        assert live(stack) == (champion, None, 0.0, "close"), "the same again starts nothing"
        assert followed(stack) == [("FINISHED", report["effect"]["difference"])], "one run, with the last report"
        shown = stack.prefect("/artifacts/filter", {"artifacts": {"key": {"any_": ["experiment"]}}})
        assert any("ended: 1d of data went by" in page["data"] for page in shown)


def reconciled(stack: Stack) -> bool:
    """Whether the experiment is over after a reconcile; one is cancelled when the scheduled one is at it."""
    ended(stack, started(stack, "reconcile/every-minute"))
    return live(stack)[3] == "close"


def live(stack: Stack) -> tuple[str, str | None, float, str]:
    now = stack.ledger.live()
    assert now is not None
    return now.champion, now.challenger, now.challenger_share, now.move


def sticky(stack: Stack) -> bool:
    """Whether every tail number was answered by one arm."""
    answers = telemetry.predictions(stack.settings.telemetry, "2013-12-01", columns=["rollout", "arm", "tailnum"])
    mine = answers[answers["rollout"] == "experiment-side-by-side"]
    return set(mine["arm"]) == {"champion", "challenger"} and bool(
        (mine.groupby("tailnum")["arm"].nunique() == 1).all()
    )


def followed(stack: Stack) -> list[tuple[str, float]]:
    """State and effect of every run that MLflow has of experiments."""
    api = f"{stack.settings.tracking_uri}/api/2.0/mlflow"
    asked = {"experiment_name": f"{params.load(stack.settings.root).project.name}-experiments"}
    found = httpx.get(f"{api}/experiments/get-by-name", params=asked).raise_for_status().json()
    where = {"experiment_ids": [found["experiment"]["experiment_id"]]}
    runs: list[dict[str, Any]] = httpx.post(f"{api}/runs/search", json=where).raise_for_status().json()["runs"]
    return [
        (run["info"]["status"], next(m["value"] for m in run["data"]["metrics"] if m["key"] == "effect"))
        for run in runs
    ]  # fmt: skip
