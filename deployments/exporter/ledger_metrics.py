"""What the ledger says of the loop: is the data fresh, what was decided last, what is under way, what is owed. Moments
are Unix times, so that rules can ask how long ago without anybody here looking at a clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily

from deployments.exporter.polling import gauge, one
from stores.ledger import Ledger, statistics, utc
from trimtab.config import params
from trimtab.config.params import Params
from trimtab.data.periods import Period
from trimtab.rollout.state_machine import OVER, Terms


class Project:
    """The project's params.yaml, read again when it has changed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stamp: tuple[int, int] | None = None
        self._read: Params | None = None

    def now(self) -> Params:
        """As it is now. Raises ParamsError."""
        about = (self._folder / "params.yaml").stat() if (self._folder / "params.yaml").exists() else None
        stamp = (about.st_mtime_ns, about.st_size) if about else None
        if self._read is None or stamp != self._stamp:
            self._read, self._stamp = params.load(self._folder), stamp
        return self._read


def freshness(ledger: Ledger, project: Project, clock: Callable[[], datetime]) -> Iterator[GaugeMetricFamily]:
    """How far the accepted data is behind what the clock says should be there."""
    known = project.now()
    label = statistics.newest_accepted(ledger)
    newest = known.parse_period(label) if label else None
    yield one("accepted_end_seconds", "End of the newest accepted period.", newest.end.timestamp() if newest else None)
    behind = periods_behind(newest or known.first.shift(-1), clock(), known.period.label_delay)
    yield one("periods_behind", "Complete periods with known labels that have no accepted batch.", behind)
    refused = statistics.quarantined_since(ledger, label)
    yield one("quarantined_periods", "Periods after the newest accepted one whose batches were refused.", refused)


def periods_behind(newest: Period, now: datetime, label_delay: timedelta) -> int:
    """How many periods after *newest* are complete at *now*, with their labels known."""
    due = Period.containing(now - label_delay, newest.every).shift(-1)
    if newest.every == "month":
        apart = 12 * (due.start.year - newest.start.year) + due.start.month - newest.start.month
    else:
        apart = (due.start - newest.start) // (newest.end - newest.start)
    return max(apart, 0)


def decided(ledger: Ledger) -> Iterator[GaugeMetricFamily]:
    """The last decisions, and the numbers behind the newest."""
    by_action = statistics.last_decisions(ledger)
    yield gauge("decisions", "Decisions by action.", ["action"], [((a,), n) for a, (n, _) in by_action.items()])
    yield gauge(
        "decided_seconds", "When the last decision of this action was made.", ["action"],
        [((action,), at.timestamp()) for action, (_, at) in by_action.items()],
    )  # fmt: skip
    last = statistics.newest_decision(ledger)
    standing = [((last.action, last.period), 1.0)] if last else []
    yield gauge("decision", "1 for the decision that was made last.", ["action", "period"], standing)
    evidence = last.evidence if last else {}
    yield one("drift_impact", "Impact of drift in that decision.", _number(evidence.get("impact")))
    facts = evidence.get("facts") or {}
    yield one("prediction_distance", "Distance of the predictions in it.", _number(facts.get("prediction_distance")))
    yield one("decision_rows", "Answers that it rests on.", _number(facts.get("rows")))
    quality = facts.get("quality") or {}
    told = [(kind, value) for kind in ("live", "promised") if (value := _number(quality.get(kind))) is not None]
    yield gauge(
        "quality", "Quality in it, and as promised.", ["metric", "kind"],
        [((str(quality.get("metric", "")), kind), value) for kind, value in told],
    )  # fmt: skip


def under_way(ledger: Ledger) -> Iterator[GaugeMetricFamily]:
    """Who is live, and how rollouts fare."""
    live, known = ledger.live(), statistics.rollouts(ledger)
    yield one("ledger_version", "Version of the live row.", live.version if live else 0)
    yield one("live_seconds", "When that row was written.", utc(live.recorded_at).timestamp() if live else None)
    states = Counter(rollout.state for rollout in known)
    yield gauge("rollouts", "Rollouts by state.", ["state"], [((state,), n) for state, n in states.items()])
    running = [known[-1]] if known and known[-1].state not in {*OVER, "champion"} else []
    labels = ["rollout", "release", "strategy", "state"]
    named = {r.id: (r.id, r.release, r.strategy, r.state) for r in running}
    yield gauge(
        "rollout_began_seconds", "When the rollout that is under way began.", labels,
        [(named[r.id], r.began_at.timestamp()) for r in running],
    )  # fmt: skip
    yield gauge(
        "rollout_entered_seconds", "When it came to its state.", labels,
        [(named[r.id], r.entered_at.timestamp()) for r in running],
    )  # fmt: skip
    horizons = [(named[r.id], seconds) for r in running if (seconds := _horizon(ledger, r.id)) is not None]
    yield gauge("rollout_horizon_seconds", "Data time after which it is decided anyhow.", labels, horizons)


def owed(ledger: Ledger) -> Iterator[GaugeMetricFamily]:
    """What the ledger says must happen and has not."""
    waiting = {
        "retrain": statistics.retrain_backlog(ledger), "monitoring": statistics.monitoring_backlog(ledger),
        "alert": statistics.alert_backlog(ledger),
    }  # fmt: skip
    yield gauge(
        "owed", "Retrains, monitoring and alerts that the ledger awaits.", ["work"],
        [((work,), found.count) for work, found in waiting.items()],
    )  # fmt: skip
    yield gauge(
        "owed_since_seconds", "Since when the oldest of these waits.", ["work"],
        [((work,), found.oldest_at.timestamp()) for work, found in waiting.items() if found.oldest_at],
    )  # fmt: skip
    raised = statistics.alerts_by_kind(ledger)
    yield gauge("alerts", "Alerts that the loop has raised, by kind.", ["kind"], [((k,), n) for k, n in raised.items()])


def of(ledger: Ledger) -> Iterator[GaugeMetricFamily]:
    """All that needs the ledger alone. Raises LedgerUnavailable."""
    yield from decided(ledger)
    yield from under_way(ledger)
    yield from owed(ledger)


def utc_now() -> datetime:
    """The clock."""
    return datetime.now(UTC)


def _horizon(ledger: Ledger, rollout: str) -> float | None:
    row = ledger.rollout(rollout)
    return Terms.model_validate(row.policy).horizon.total_seconds() if row and row.policy else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
