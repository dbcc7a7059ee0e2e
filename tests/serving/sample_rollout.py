"""A rollout of a release, with labels for it or against it; imported by the tests of infra as well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from stores import telemetry
from stores.ledger import RolloutStep
from stores.releases.bundle import Bundle
from tests.serving.conftest import ServerHome
from tests.serving.sample_project import flights
from trimtab.rollout.state_machine import RolloutPolicy

RULES = {"min_labels": 60, "min_answers": 60, "margin": 0.05, "steps": [0.25]}


@dataclass
class SampleRollout:
    """A rollout in the shadow."""

    place: ServerHome
    champion: str
    challenger: Bundle
    rollout: str
    headers: dict[str, str]

    def step(self, state: str, *, share: float = 0.0, reason: str = "a test says so") -> None:
        """Record a step, as the flows do."""
        number = len(self.place.ledger.rollout_steps(self.rollout)) + 1
        evidence = {"share": share, "reason": reason}
        self.place.ledger.step_rollout(self.rollout, number, state, evidence)

    def answer(self, rows: int = 120, *, seed: int = 5) -> None:
        """Send rows, and wait until the pair of each is recorded, whatever else was asked before."""
        asked = flights(rows, seed=seed)[["scheduled", "flight", "tail", "distance", "hour", "carrier"]]
        raw = asked.assign(scheduled=asked["scheduled"].astype(str)).astype(object)
        content = raw.where(pd.notna(raw), None).to_dict("records")
        status, answer = self.place.post("/predict", {"rows": content}, self.headers)
        assert status == 200, answer
        given = {row["id"] for row in answer["predictions"]}
        self.place.wait(lambda: given <= set(self.pairs()["prediction_id"]), f"the pairs of {rows} rows")

    def pairs(self) -> pd.DataFrame:
        """The recorded pairs."""
        return telemetry.pairs(self.place.telemetry, rollout=self.rollout)

    def label(self, *, good: bool) -> None:
        """Label every pair by the model that has to be better."""
        pairs = self.pairs()
        above = pairs["challenger_prediction"] > pairs["champion_prediction"]
        truth = np.where(above, 1, 0) if good else np.where(above, 0, 1)
        labels = [{"id": i, "label": int(t)} for i, t in zip(pairs["prediction_id"], truth, strict=True)]
        status, answer = self.place.post("/labels", {"labels": labels}, self.headers)
        assert status == 200, answer

    def get(self, path: str) -> tuple[int, Any]:
        return self.place.get(path, self.headers)

    def verdict(self, word: str) -> dict[str, Any]:
        """The answer, once the verdict is *word*."""
        found: dict[str, Any] = {}

        def arrived() -> bool:
            found.update(self.get(f"/verdict/{self.rollout}")[1])
            return bool(found["verdict"] == word)

        self.place.wait(arrived, f"the verdict {word}: {found}")
        return found


def again(trial: SampleRollout, name: str) -> SampleRollout:
    """Another rollout of the same release."""
    return _start(trial.place, trial.challenger, name, trial.headers)


def begin(
    place: ServerHome, name: str, *, seed: int, headers: dict[str, str] | None = None, spoil: bool = False, **rules: Any
) -> SampleRollout:
    """Start a rollout of a new release, in the shadow, and wait for the server if it runs. *spoil* deletes one of the
    release's files."""
    challenger = place.release(version=seed + 1, seed=seed)
    if spoil:
        (challenger.path / "card.md").unlink()
    return _start(place, challenger, name, headers or {}, **rules)


def _start(place: ServerHome, challenger: Bundle, name: str, headers: dict[str, str], **rules: Any) -> SampleRollout:
    live = place.ledger.live()
    champion = live.champion if live else place.release(version=1).digest
    place.ledger.start_rollout(
        name, release=challenger.digest, champion_before=champion, strategy="rollout", cause="test",
        policy=RolloutPolicy(task="binary", **{**RULES, **rules}).model_dump(mode="json"),
    )  # fmt: skip
    place.ledger.step_rollout(name, 1, "started")
    place.ledger.step_rollout(name, 2, "probed")
    now = place.ledger.switch(
        champion, expected=live.version if live else 0, move="shadow", reason="test", actor="test", rollout=name,
        challenger=challenger.digest, step=RolloutStep(name, 3, "shadow", {"reason": "test", "share": 0.0}),
    )  # fmt: skip
    trial = SampleRollout(place, champion, challenger, name, headers)
    if place.process is not None:
        place.wait(lambda: trial.get("/live")[1]["ledger_version"] == now.version, "the trial")
    return trial
