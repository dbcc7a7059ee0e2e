"""How rollouts fare, for Prometheus: their states, read from the ledger every few seconds. What the server itself does
is counted in `serving.metrics.server`, the verdict is computed in `serving.verdicts` for those who ask."""

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
    """Where one rollout stands since when, and what the flows that step it have seen of it."""

    rollout: str
    release: str
    state: str
    since_s: float
    labels: int
    exposed: int


class RolloutMetrics:
    """The newest rollouts, in *registry*. `tend` reads; a scrape only gives out what was read last."""

    def __init__(self, ledger: Ledger, registry: CollectorRegistry) -> None:
        self._ledger = ledger
        self._stands: list[RolloutStatus] = []
        registry.register(self)

    def run_once(self) -> None:
        """Read the ledger. Raises LedgerUnavailable; then what is known stays."""
        self._stands = [stand for row in self._ledger.rollouts()[-NEWEST:] if (stand := self._stand(row))]

    def _stand(self, row: Rollout) -> RolloutStatus | None:
        steps = self._ledger.rollout_steps(row.id)
        if not steps:
            return None
        at, look = current_state(steps), self._ledger.last_observation(row.id)
        entered_at = utc(steps[-1].recorded_at or row.recorded_at)
        exposed = int(look.evidence.get("exposed", 0)) if look else at.exposed_before
        return RolloutStatus(
            row.id, row.release, at.phase, entered_at.timestamp(), look.labels if look else 0,
            max(exposed, at.exposed_before),
        )  # fmt: skip

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """For the registry."""
        since = GaugeMetricFamily(
            "trimtab_rollout_since_seconds", "When a rollout came to its state, as Unix time.",
            labels=["rollout", "release", "state"],
        )  # fmt: skip
        labels = GaugeMetricFamily("trimtab_rollout_labels", "Labels that its verdict rests on.", labels=["rollout"])
        exposed = GaugeMetricFamily("trimtab_rollout_exposed", "Answers of it that users got.", labels=["rollout"])
        for stand in self._stands:
            since.add_metric([stand.rollout, stand.release, stand.state], stand.since_s)
            labels.add_metric([stand.rollout], stand.labels)
            exposed.add_metric([stand.rollout], stand.exposed)
        yield from (since, labels, exposed)
