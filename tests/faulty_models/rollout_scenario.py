"""One rollout on the running stack: requests day by day, labels a day later, and a result with the rollout's steps, the
answers, and how soon the server followed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
import pandas as pd

from deployments import status
from deployments.replay.traffic import Traffic, TrafficError
from stores import telemetry
from stores.ledger import Ledger, LiveRelease, RolloutStep, utc
from tests.conftest import Stack
from tests.e2e.conftest import ended, started
from tests.waiting import eventually
from trimtab.config.sections import ColumnsConfig
from trimtab.rollout.state_machine import RolloutState, current_state

ROWS = 100
SEEN_WITHIN_S = 3.0
DAY = pd.Timedelta(days=1)


@dataclass
class VersionWatcher:
    """When the model server first showed each ledger version at /live."""

    server: str
    ledger: Ledger
    first: dict[int, datetime] = field(default_factory=dict)
    _over: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def watched(self) -> Iterator[VersionWatcher]:
        """Poll /live without a pause, and at the end until it shows the ledger's version: only the run that took the
        last step waits for that."""
        thread = threading.Thread(target=self._watch, daemon=True)
        thread.start()
        try:
            yield self
            if live := self.ledger.live():
                self._wait_for(live.version)
        finally:
            self._over.set()
            thread.join(timeout=10)

    def _watch(self) -> None:
        with httpx.Client(base_url=self.server, timeout=5) as client:
            while not self._over.is_set():
                try:
                    version = int(client.get("/live").raise_for_status().json()["ledger_version"] or 0)
                    self.first.setdefault(version, datetime.now(UTC))
                except httpx.HTTPError:
                    pass  # the server is down; its version is read when it is back
                time.sleep(0.03)

    def _wait_for(self, version: int) -> None:
        deadline = time.monotonic() + SEEN_WITHIN_S
        while not self._over.is_set() and max(self.first, default=0) < version and time.monotonic() < deadline:
            time.sleep(0.03)

    def lag_s(self, moved: LiveRelease) -> float:
        """How long after the ledger the server stood there, or at a later version; waited for while it is watched."""
        self._wait_for(moved.version)
        seen = [at for version, at in self.first.items() if version >= moved.version]
        return (min(seen) - moved.recorded_at).total_seconds() if seen else float("inf")


@dataclass
class RolloutScenario:
    """A rollout of *release* on the *stack*, with the rows of a *month* as requests. *unanswered* counts rows that were
    sent to a server which closed the connection."""

    stack: Stack
    release: str
    columns: ColumnsConfig
    month: pd.DataFrame
    run: str = ""
    rollout: str = ""
    asked: int = 0
    unanswered: int = 0
    sent: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ledger: Ledger = self.stack.ledger
        self.traffic = Traffic(self.stack.settings.model_server, self.columns)
        self.watcher = VersionWatcher(self.stack.settings.model_server, self.ledger)
        self.began = datetime.now(UTC)
        self._unpaired = 0

    def begin(self) -> None:
        """Start the deploy flow; returns when the rollout is in the shadow or was rejected before."""
        before = {row.id for row in self.ledger.rollouts()}
        self.run = started(self.stack, "deploy/on-request", release=self.release, cause="a test sends it out")
        self.rollout = eventually(
            lambda: next((r.id for r in self.ledger.rollouts() if r.id not in before), None),
            "the rollout", within_s=30,
        )  # fmt: skip
        eventually(lambda: self.at.phase not in ("started", "probed"), "the shadow", within_s=30)

    @property
    def at(self) -> RolloutState:
        """Its present state."""
        return current_state(self.ledger.rollout_steps(self.rollout))

    def live_through(self, *, days: int = 31, until: tuple[str, ...] = ()) -> RolloutState:
        """Send requests day by day until the rollout is decided, or its state is one of *until*."""
        times = self.month[self.columns.time]
        for day in sorted(times.dt.normalize().unique())[:days]:
            rows = self.month[times.dt.normalize() == day]
            for start in range(0, len(rows), ROWS):
                self._ask(rows.iloc[start : start + ROWS])
                if not self.asked > len(rows):
                    self._until_seen()
            self.sent += self.traffic.deliver(day)
            self._until_seen()
            if not self.at.is_challenging or self.at.phase in until:
                break
        return self.at

    def ask_on(self, days: Mapping[int, int] | range) -> None:
        """Send the requests of these days of the month, without labels."""
        numbers = self.month[self.columns.time].dt.day
        for day in days:
            rows = self.month[numbers == day]
            for start in range(0, len(rows), ROWS):
                self._ask(rows.iloc[start : start + ROWS])

    def _ask(self, rows: pd.DataFrame) -> None:
        self.asked += len(rows)
        try:
            self.traffic.send(rows)
        except (httpx.HTTPError, TrafficError):
            self.unanswered += len(rows)
            eventually(self._ready, "the model server", within_s=60)

    def _ready(self) -> bool:
        return httpx.get(f"{self.stack.settings.model_server}/ready", timeout=5).status_code == httpx.codes.OK

    def _until_seen(self) -> None:
        """Wait until the rollout's observation has all pairs and labels; lost ones are waited for only once."""
        deadline = time.monotonic() + SEEN_WITHIN_S
        while self.at.is_challenging:
            look = self.ledger.last_observation(self.rollout)
            pairs, labels = (look.pairs, look.labels) if look else (0, 0)
            if pairs >= len(self.traffic.answered) - self._unpaired and labels >= len(self.sent) - self._unpaired:
                return
            if time.monotonic() > deadline:
                self._unpaired = len(self.traffic.answered) - pairs
                return
            time.sleep(0.1)

    def over(self) -> dict[str, Any]:
        """The deploy flow's run, once it has ended."""
        return ended(self.stack, self.run)

    def account(self) -> ScenarioResult:
        """Its result."""
        steps = self.ledger.rollout_steps(self.rollout)
        pairs = telemetry.pairs(self.stack.settings.telemetry, rollout=self.rollout)
        recorded = telemetry.predictions(
            self.stack.settings.telemetry, columns=["release", "arm", "received_at", "rollout", self.columns.id]
        )
        recorded = recorded[recorded["received_at"] >= self.began]
        moves = [move for move in self.ledger.history() if move.rollout == self.rollout]
        return ScenarioResult(self, steps, pairs, recorded, moves)


@dataclass
class ScenarioResult:
    """A rollout's *steps*, *pairs*, answers *recorded* since its start, and *moves* in the ledger."""

    trial: RolloutScenario
    steps: list[RolloutStep]
    pairs: pd.DataFrame
    recorded: pd.DataFrame
    moves: list[LiveRelease]

    @property
    def states(self) -> list[str]:
        """All its states in order."""
        return [current_state(self.steps[: n + 1]).title for n in range(len(self.steps))]

    @property
    def state(self) -> str:
        """The last state."""
        return self.states[-1]

    @property
    def reason(self) -> str:
        """The reason of the last step."""
        return str(self.steps[-1].evidence.get("reason", ""))

    @property
    def seen(self) -> dict[str, Any]:
        """The observation of the last step."""
        return dict(self.steps[-1].evidence.get("seen") or {})

    @property
    def exposed(self) -> int:
        """The number of answers that users got from it, by telemetry."""
        return int((self.recorded["release"] == self.trial.release).sum())

    @property
    def seconds(self) -> float | None:
        """Seconds from the first pair to the last step."""
        if self.pairs.empty:
            return None
        return float(
            (utc(self.steps[-1].recorded_at or self.trial.began) - self.pairs["received_at"].min()).total_seconds()
        )

    @property
    def twice(self) -> int:
        """The number of rows that telemetry has more than once."""
        return int((self.recorded[self.trial.columns.id].value_counts() > 1).sum())

    @property
    def missing(self) -> set[str]:
        """Answers that users got but telemetry does not have."""
        return self.trial.traffic.answered - set(self.recorded["prediction_id"])

    def told(self) -> tuple[list[str], str]:
        """Its alerts, and the line of `trimtab history` for its last move."""
        alerts = [
            str(a.message) for a in self.trial.ledger.alerts() if str(a.id).startswith(f"rollout:{self.trial.rollout}")
        ]
        rows = [r for r in status.history(self.trial.stack.settings) if r["rollout"] == self.trial.rollout]
        return alerts, status.format_history(rows[-1:]) if rows else ""

    def figures(self, name: str) -> dict[str, Any]:
        """A row of the table in the docs."""
        last = self.seen
        return {
            "release": name, "state": self.state, "states": self.states, "reason": self.reason,
            "pairs": last.get("pairs", 0), "labels": last.get("labels", 0), "exposed": self.exposed,
            "seconds": self.seconds, "asked": self.trial.asked, "unanswered": self.trial.unanswered,
            "lag_s": self.trial.watcher.lag_s(self.moves[-1]) if self.moves else None,
        }  # fmt: skip
