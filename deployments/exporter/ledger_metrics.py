"""Metrics from the ledger: freshness of data, last decisions, live release, rollouts, pending work. Times are exported
as Unix timestamps, so that alert rules compute ages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily

from deployments.exporter.polling import gauge, single
from stores.ledger import Ledger, statistics, utc
from trimtab.config import params
from trimtab.config.params import Params
from trimtab.data.periods import Period
from trimtab.rollout.state_machine import FINISHED, RolloutPolicy


class ParamsReader:
    """Reads a project's params.yaml, again only when it has changed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stamp: tuple[int, int] | None = None
        self._params: Params | None = None

    def read(self) -> Params:
        """The current params. Raises ParamsError."""
        file = self._folder / "params.yaml"
        status = file.stat() if file.exists() else None
        stamp = (status.st_mtime_ns, status.st_size) if status else None
        if self._params is None or stamp != self._stamp:
            self._params, self._stamp = params.load(self._folder), stamp
        return self._params


def freshness_metrics(ledger: Ledger, reader: ParamsReader, now: datetime) -> Iterator[GaugeMetricFamily]:
    """The newest accepted period, and how many complete periods are missing after it."""
    project = reader.read()
    label = statistics.newest_accepted(ledger)
    newest = project.parse_period(label) if label else None
    end = newest.end.timestamp() if newest else None
    yield single("accepted_end_timestamp_seconds", "End of the newest accepted period.", end)
    behind = periods_behind(newest or project.first.shift(-1), now, project.period.label_delay)
    yield single("periods_behind", "Complete periods with known labels without an accepted batch.", behind)
    quarantined = statistics.quarantined_since(ledger, label)
    yield single("quarantined_periods", "Periods after the newest accepted one with a quarantined batch.", quarantined)


def periods_behind(newest: Period, now: datetime, label_delay: timedelta) -> int:
    """Number of periods after *newest* that are complete at *now*, and whose labels are known."""
    due = Period.containing(now - label_delay, newest.every).shift(-1)
    return max(newest.distance(due), 0)


def decision_metrics(ledger: Ledger) -> Iterator[GaugeMetricFamily]:
    """The last decision of each action, and the numbers of the newest decision."""
    by_action = statistics.last_decisions(ledger)
    yield gauge("decisions", "Decisions by action.", ["action"], [((a,), n) for a, (n, _) in by_action.items()])
    yield gauge(
        "last_decision_timestamp_seconds", "Time of the last decision of this action.", ["action"],
        [((action,), at.timestamp()) for action, (_, at) in by_action.items()],
    )  # fmt: skip
    last = statistics.newest_decision(ledger)
    newest = [((last.action, last.period), 1.0)] if last else []
    yield gauge("last_decision", "1 for the newest decision.", ["action", "period"], newest)
    evidence = last.evidence if last else {}
    yield single("drift_impact", "Drift impact in the newest decision.", _number(evidence.get("impact")))
    facts = evidence.get("facts") or {}
    distance = _number(facts.get("prediction_distance"))
    yield single("prediction_distance", "Distance of predictions in the newest decision.", distance)
    yield single("decision_rows", "Predictions behind the newest decision.", _number(facts.get("rows")))
    quality = facts.get("quality") or {}
    values = [(kind, value) for kind in ("live", "promised") if (value := _number(quality.get(kind))) is not None]
    yield gauge(
        "quality", "Quality in the newest decision, and as promised at release.", ["metric", "kind"],
        [((str(quality.get("metric", "")), kind), value) for kind, value in values],
    )  # fmt: skip


def rollout_metrics(ledger: Ledger) -> Iterator[GaugeMetricFamily]:
    """The live release, rollouts by state, and the active rollout."""
    live, rollouts = ledger.live(), statistics.rollouts(ledger)
    yield single("ledger_version", "Version of the live row.", live.version if live else 0)
    since = utc(live.recorded_at).timestamp() if live else None
    yield single("live_since_timestamp_seconds", "Time of the live row.", since)
    states = Counter(rollout.state for rollout in rollouts)
    yield gauge("rollouts", "Rollouts by state.", ["state"], [((state,), n) for state, n in states.items()])
    active = [rollouts[-1]] if rollouts and rollouts[-1].state not in {*FINISHED, "champion"} else []
    labels = ["rollout", "release", "strategy", "state"]
    named = {r.id: (r.id, r.release, r.strategy, r.state) for r in active}
    yield gauge(
        "rollout_start_timestamp_seconds", "Start of the active rollout.", labels,
        [(named[r.id], r.began_at.timestamp()) for r in active],
    )  # fmt: skip
    yield gauge(
        "rollout_state_timestamp_seconds", "Time when the active rollout entered its state.", labels,
        [(named[r.id], r.entered_at.timestamp()) for r in active],
    )  # fmt: skip
    horizons = [(named[r.id], seconds) for r in active if (seconds := _horizon(ledger, r.id)) is not None]
    yield gauge("rollout_horizon_seconds", "Data time at which the active rollout is decided.", labels, horizons)


def backlog_metrics(ledger: Ledger) -> Iterator[GaugeMetricFamily]:
    """Retrains, monitoring and alerts that the ledger requires and that are not done."""
    backlogs = {
        "retrain": statistics.retrain_backlog(ledger), "monitoring": statistics.monitoring_backlog(ledger),
        "alert": statistics.alert_backlog(ledger),
    }  # fmt: skip
    yield gauge(
        "backlog", "Retrains, monitoring and alerts that the ledger requires.", ["work"],
        [((work,), backlog.count) for work, backlog in backlogs.items()],
    )  # fmt: skip
    yield gauge(
        "backlog_oldest_timestamp_seconds", "Time since which the oldest of these is pending.", ["work"],
        [((work,), backlog.oldest_at.timestamp()) for work, backlog in backlogs.items() if backlog.oldest_at],
    )  # fmt: skip
    raised = statistics.alerts_by_kind(ledger)
    yield gauge("alerts", "Alerts that the loop has raised, by kind.", ["kind"], [((k,), n) for k, n in raised.items()])


def loop_metrics(ledger: Ledger) -> Iterator[GaugeMetricFamily]:
    """All metrics that need only the ledger. Raises LedgerUnavailable."""
    yield from decision_metrics(ledger)
    yield from rollout_metrics(ledger)
    yield from backlog_metrics(ledger)


def _horizon(ledger: Ledger, rollout: str) -> float | None:
    row = ledger.rollout(rollout)
    return RolloutPolicy.model_validate(row.policy).horizon.total_seconds() if row and row.policy else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
