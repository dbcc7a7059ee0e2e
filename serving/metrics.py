"""What Prometheus can see of the model server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from stores.telemetry.layout import oldest_waiting_s, waiting_bytes

if TYPE_CHECKING:
    from serving.roster import Standing

_LATENCIES_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class Metrics:
    """One server's metrics, in a registry of their own."""

    def __init__(self, telemetry: Path) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter("trimtab_requests", "Requests.", ["path", "status"], registry=registry)
        self.latency = Histogram(
            "trimtab_request_seconds", "Time to an answer.", ["path"], buckets=_LATENCIES_S, registry=registry
        )
        self.errors = Counter("trimtab_errors", "Requests not answered, by kind.", ["kind"], registry=registry)
        self.rows = Counter("trimtab_predictions", "Rows answered.", ["release", "arm"], registry=registry)
        self.labels = Counter("trimtab_labels", "Labels by what became of them.", ["outcome"], registry=registry)
        self.swaps = Counter("trimtab_swaps", "Changes of who is live.", registry=registry)
        self.info = Gauge(
            "trimtab_live_release", "1 for each release that answers.", ["release", "version", "arm"], registry=registry
        )
        self.ledger_version = Gauge("trimtab_ledger_version", "Ledger version that is live.", registry=registry)
        self.ledger_up = Gauge("trimtab_ledger_up", "1 when the ledger answered last time.", registry=registry)
        self.telemetry_up = Gauge("trimtab_telemetry_writable", "1 when telemetry can be written.", registry=registry)
        self.written = Gauge("trimtab_telemetry_written_bytes", "Bytes recorded by this process.", registry=registry)
        waiting = Gauge("trimtab_telemetry_waiting_bytes", "Bytes not compacted yet.", registry=registry)
        waiting.set_function(lambda: waiting_bytes(telemetry))
        lag = Gauge("trimtab_telemetry_lag_seconds", "Age of the oldest row not compacted yet.", registry=registry)
        lag.set_function(lambda: oldest_waiting_s(telemetry))

    def live(self, standing: Standing) -> None:
        """Note who answers from now on."""
        self.swaps.inc()
        self.info.clear()
        self.ledger_version.set(standing.version)
        for arm, loaded in (("champion", standing.champion), ("challenger", standing.challenger)):
            if loaded is not None:
                self.info.labels(loaded.digest, loaded.bundle.manifest.model_version, arm).set(1)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
