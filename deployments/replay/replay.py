"""Replays data time: a year of operation in minutes, through the real server and the real orchestrator.

For each period its rows are sent to the live server, labels follow late, and ingest is requested as a schedule would.
Everything else is done by the loop and waited for; nothing here starts a retrain. During a rollout the rows come day by
day, so that the rollout sees them as it would in a real month."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import pandas as pd

from deployments.replay.traffic import Traffic
from stores import telemetry
from stores.ledger import DecisionRecord, Ledger, Outcome, RolloutObservation
from stores.releases.store import ReleaseStore
from stores.telemetry import TelemetryLocation, open_telemetry
from tasks import orchestrator, sources
from tasks.source_access import BucketAccess
from trimtab.config import params
from trimtab.config.params import Params
from trimtab.config.settings import Settings
from trimtab.data.periods import Period, span
from trimtab.data.schema import Schema
from trimtab.rollout.state_machine import current_state

QUIET_WITHIN_S = 180.0
POLL_S = 0.2
LOOKED_WITHIN_S = 10.0


class ReplayStuck(RuntimeError):
    """The loop did not come to rest; the message says what it was waiting for and where to look."""


@dataclass
class ReplayStep:
    """What happened in one period."""

    period: str
    rows: int = 0
    labels: int = 0
    release: str | None = None
    version: int | None = None
    decision: DecisionRecord | None = None
    retrain: Outcome | None = None
    seconds: float = 0.0


@dataclass
class Replay:
    """A walk from *first* to *last*, and what it saw."""

    settings: Settings
    params: Params
    ledger: Ledger
    traffic: Traffic
    echo: Callable[[str], None]
    steps: list[ReplayStep] = field(default_factory=list)
    alerts: int = 0

    @property
    def delay(self) -> pd.Timedelta:
        """How long after a period its labels are known."""
        return pd.Timedelta(self.params.period.label_delay)

    @cached_property
    def release_store(self) -> ReleaseStore:
        """Where releases are kept."""
        return ReleaseStore.at(self.settings.releases, self.settings.store, self.settings.store_endpoint)

    @cached_property
    def telemetry(self) -> TelemetryLocation:
        """Where predictions and labels are."""
        return open_telemetry(self.settings.telemetry, self.release_store.objects)

    def prepare(self, before: Period) -> None:
        """Bring in the periods before the walk, and have a first model."""
        accepted = {check.period for check in self.ledger.validations() if check.accepted}
        for period in span(self.params.first, before.shift(-1)):
            if str(period) not in accepted:
                self._ingest(period)
                self.echo(f"{period}  landed and accepted")
        if self.ledger.live() is None:
            began = time.monotonic()
            run = orchestrator.start_run("retrain/nightly", key=f"first-{time.time()}", parameters={})
            self._finished(run, "the first retrain")
            live = self.ledger.live()
            if live is None:
                raise ReplayStuck(f"the first model did not pass the gate: see {self._page(run)}")
            self.echo(f"{before.shift(-1)}  first model, live after {time.monotonic() - began:.0f} s")

    def walk(self, first: Period, last: Period) -> None:
        """Live through the periods."""
        rows = self._rows(first, last)
        for period in span(first, last):
            began = time.monotonic()
            live = self.ledger.live()
            assert live is not None
            step = ReplayStep(str(period), release=live.champion, version=self.ledger.model_version(live.champion))
            self.steps.append(step)
            self._status(f"{period}  users ask")
            step.rows, labels = self._asked(next(rows))
            step.labels = labels + len(self.traffic.deliver(pd.Timestamp(period.end).tz_localize(None)))
            self._ingest(period)
            step.decision = self._decided(period)
            if step.decision is not None and step.decision.action == "retrain":
                step.retrain = self._retrained(step.decision)
            step.seconds = time.monotonic() - began
            self.echo(format_step(step))

    def _asked(self, rows: pd.DataFrame) -> tuple[int, int]:
        """Users ask for *rows*; how many were answered, and how many labels came in meanwhile."""
        rows = rows.sort_values(self.params.columns.time, kind="stable", ignore_index=True)
        days = rows[self.params.columns.time].dt.normalize()
        watched, labels = RolloutWatcher(self.ledger), 0
        asked: list[str] = []
        for day in days.unique():
            if not watched.is_challenging:
                break
            asked += self.traffic.send(rows[days == day])
            known = self.traffic.deliver(day + pd.Timedelta(days=1) - self.delay)
            labels += len(known)
            self._status(f"{day.date()}  {watched.wait(answers=len(asked), labels=len(set(known) & set(asked)))}")
        rest = rows.iloc[len(asked) :]
        return len(asked) + (len(self.traffic.send(rest)) if len(rest) else 0), labels

    def _rows(self, first: Period, last: Period) -> Iterator[pd.DataFrame]:
        """Per period the rows that users ask for until its labels are known: the beginning of the next period is
        answered by the release that is live then."""
        access = BucketAccess(self.settings.source_endpoint, self.settings.source_profile)
        found = [sources.fetch(self.settings.root, self.params, p, access) for p in span(first, last)]
        rules = Schema.loads((self.settings.root / "schema.yaml").read_text())
        raw = pd.concat(found, ignore_index=True)
        year = rules.convert(raw)  # as ingest does, so that users send what models learn from
        if self.params.project.task != "regression":
            target = self.params.columns.target
            year = year.assign(**{target: raw[target]})  # the server reads labels as the project spells them
        year = self.traffic.resume(telemetry.joined(self.telemetry, first.start), year)
        times = year[self.params.columns.time]
        for period in span(first, last):
            start, end = (pd.Timestamp(t).tz_localize(None) + self.delay for t in (period.start, period.end))
            mine = (times < end) & ((times >= start) | (period == first))
            yield year[mine].reset_index(drop=True)

    def _ingest(self, period: Period) -> None:
        self._status(f"{period}  ingest")
        run = orchestrator.start_run(
            "ingest/on-request", key=f"replay-{period}-{time.time()}", parameters={"period": str(period)}
        )
        self._finished(run, f"ingest of {period}")

    def _finished(self, run: str, what: str) -> None:
        deadline = time.monotonic() + QUIET_WITHIN_S
        while (state := orchestrator.run_state(run)) != "COMPLETED":
            if state in ("FAILED", "CRASHED", "CANCELLED"):
                raise ReplayStuck(f"{what} {state.lower()}: see {self._page(run)}")
            if time.monotonic() > deadline:
                raise ReplayStuck(f"{what} is {state} after {QUIET_WITHIN_S:.0f} s: see {self._page(run)}")
            time.sleep(POLL_S)

    def _decided(self, period: Period) -> DecisionRecord | None:
        """The decision for the period, once drift-monitor has made it; None when its batch was quarantined."""
        newest = list(self.ledger.validations(str(period)))[-1]
        if not newest.accepted:
            return None
        self._status(f"{period}  drift-monitor")
        outcome = self._outcome(f"monitor:{period}:{newest.digest}", f"drift-monitor of {period}")
        id = outcome.evidence.get("decision")
        return self.ledger.decision(id) if id else None

    def _retrained(self, decision: DecisionRecord) -> Outcome:
        self._status(f"{decision.period}  retrain")
        return self._outcome(f"retrain:{decision.id}", f"the retrain for {decision.id}")

    def _outcome(self, work: str, what: str) -> Outcome:
        deadline = time.monotonic() + QUIET_WITHIN_S
        while (outcome := self.ledger.outcomes().get(work)) is None:
            self._pass_on_alerts()
            if time.monotonic() > deadline:
                raise ReplayStuck(
                    f"{what} has not ended after {QUIET_WITHIN_S:.0f} s: see the runs at {self._page()} "
                    f"and {self.settings.state / 'logs' / 'worker.log'}"
                )
            time.sleep(POLL_S)
        return outcome

    def _pass_on_alerts(self) -> None:
        """Alerts that were raised while waiting: what goes wrong should be seen while it does."""
        for alert in self.ledger.alerts()[self.alerts :]:
            self.alerts += 1
            self.echo(f"alert: {alert.message}")

    def _page(self, run: str | None = None) -> str:
        pages = self.settings.prefect_api.removesuffix("/api")
        return f"{pages}/runs/flow-run/{run}" if run else f"{pages}/runs"

    def _status(self, text: str) -> None:
        """A passing line: what is being waited for."""
        self.echo(f"\r{text}")


class RolloutWatcher:
    """The open rollout, if any, followed by what its conductor saw of the traffic since."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        current = ledger.current_rollout()
        self._rollout = current.rollout.id if current else None
        seen = self._look()
        self._answers, self._labels = (seen.pairs, seen.labels) if seen else (0, 0)
        self._unseen = 0

    def _look(self) -> RolloutObservation | None:
        return self._ledger.last_observation(self._rollout) if self._rollout else None

    @property
    def is_challenging(self) -> bool:
        """Whether it is still open who will be champion."""
        return self._rollout is not None and current_state(self._ledger.rollout_steps(self._rollout)).is_challenging

    def wait(self, *, answers: int, labels: int) -> str:
        """Wait until a look took in all *answers* since the beginning and *labels* more; where the rollout stands."""
        self._labels += labels
        deadline = time.monotonic() + LOOKED_WITHIN_S
        while self.is_challenging:
            look = self._look()
            if look and look.pairs - self._answers >= answers - self._unseen and look.labels >= self._labels:
                break
            if time.monotonic() > deadline:  # what was not paired by now is not waited for again
                self._unseen = answers - (look.pairs - self._answers if look else 0)
                self._labels = look.labels if look else 0
                break
            time.sleep(0.1)
        look = self._look()
        return f"rollout: {look.state}, {look.labels:,} labels, {look.verdict}" if look else "rollout: begun"


def format_step(step: ReplayStep) -> str:
    """One line about a period."""
    decision = step.decision
    line = f"{step.period}  version {step.version}"
    if decision is None:
        return f"{line}: the batch was quarantined"
    line += f"  {decision.action}: {decision.cause}"
    if step.retrain:
        line += f" -> {step.retrain.result}"
    return f"{line}  ({step.seconds:.0f} s)"


def open_replay(settings: Settings, ledger_url: str, echo: Callable[[str], None]) -> Replay:
    """A replay of the project against the running stack."""
    project = params.load(settings.root)
    traffic = Traffic(settings.model_server, project.columns, key=settings.server_key)
    return Replay(settings, project, Ledger(ledger_url), traffic, echo)
