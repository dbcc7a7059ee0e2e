"""Rollouts as Prometheus metrics, read from the ledger every few seconds. The server's own metrics are in
`serving.metrics.server`; verdicts are computed in `serving.verdicts` on request."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily

from stores.ledger import Ledger, Rollout, utc
from trimtab.rollout.state_machine import current_state

NEWEST = 3


@dataclass(frozen=True)
class RolloutStatus:
    """A rollout's state, since when it has it (Unix time), and what the flows have observed last."""

    rollout: str
    release: str
    state: str
    since_s: float
    labels: int
    exposed: int


class RolloutMetrics:
    """The newest three rollouts, in *registry*. `run_once` reads the ledger; a scrape shows what was read last."""

    def __init__(self, ledger: Ledger, registry: CollectorRegistry) -> None:
        self._ledger = ledger
        self._statuses: list[RolloutStatus] = []
        registry.register(self)

    def run_once(self) -> None:
        """Read the ledger. Raises LedgerUnavailable; then the last values stay."""
        self._statuses = [status for rollout in self._ledger.rollouts()[-NEWEST:] if (status := self._status(rollout))]

    def _status(self, rollout: Rollout) -> RolloutStatus | None:
        steps = self._ledger.rollout_steps(rollout.id)
        if not steps:
            return None
        state, last = current_state(steps), self._ledger.last_observation(rollout.id)
        entered_at = utc(steps[-1].recorded_at or rollout.recorded_at)
        exposed = int(last.evidence.get("exposed", 0)) if last else state.exposed_before
        return RolloutStatus(
            rollout.id, rollout.release, state.phase, entered_at.timestamp(), last.labels if last else 0,
            max(exposed, state.exposed_before),
        )  # fmt: skip

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The metrics; called by the registry."""
        since = GaugeMetricFamily(
            "trimtab_rollout_since_seconds", "When a rollout entered its state, as Unix time.",
            labels=["rollout", "release", "state"],
        )  # fmt: skip
        labels = GaugeMetricFamily(
            "trimtab_rollout_labels", "Labels that a rollout's verdict is based on.", labels=["rollout"]
        )
        exposed = GaugeMetricFamily(
            "trimtab_rollout_exposed", "Answers of a rollout's release that users got.", labels=["rollout"]
        )
        for status in self._statuses:
            since.add_metric([status.rollout, status.release, status.state], status.since_s)
            labels.add_metric([status.rollout], status.labels)
            exposed.add_metric([status.rollout], status.exposed)
        yield from (since, labels, exposed)
