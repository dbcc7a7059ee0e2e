"""What Prometheus can see of the model server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from serving.metrics.requests import RequestMetrics
from serving.settings import SCOPES
from stores.telemetry.parquet.files import oldest_pending_s, pending_bytes

if TYPE_CHECKING:
    from serving.batching.microbatch import MicroBatch
    from serving.models.inference import ChallengerResult
    from serving.models.loaded import ServingState
    from stores.telemetry import Recorder

_CALLS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096, 16384)


class ServerMetrics:
    """One server's metrics, in a registry of their own."""

    def __init__(self, telemetry: Path, recorder: Recorder, *, ships: bool = False) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = RequestMetrics(registry)
        registry.register(RecorderMetrics(recorder))
        self.ledger_answered_at = time.monotonic()

        def counter(name: str, about: str, *labels: str) -> Counter:
            return Counter(f"trimtab_{name}", about, labels, registry=registry)

        def gauge(name: str, about: str, *labels: str) -> Gauge:
            return Gauge(f"trimtab_{name}", about, labels, registry=registry)

        self.errors = counter("errors", "Requests not answered, by kind.", "kind")
        self.rows = counter("predictions", "Rows answered.", "release", "arm")
        self.labels = counter("labels", "Labels by what became of them.", "outcome")
        self.swaps = counter("swaps", "Changes of who is live.")
        self.challenged = counter("challenger_rows", "Rows by what a challenger made of them.", "release", "outcome")
        self.pairs_lost = counter("pairs_lost", "Pairs not recorded, as the challenger or telemetry was too slow.")
        self.batch = Histogram("trimtab_batch_rows", "Rows scored together.", buckets=_SIZES, registry=registry)
        self.calls = Histogram(
            "trimtab_model_seconds", "Calls to a model.", ["release"], buckets=_CALLS_S, registry=registry
        )
        self.info = gauge("live_release", "1 for each release that answers.", "release", "version", "arm", "route")
        self.share = gauge("rollout_share", "Share of the keys that the challenger answers.")
        self.refused = gauge("challenger_refused", "1 for a challenger that is not asked.", "release")
        self.ledger_version = gauge("ledger_version", "Ledger version that is live.")
        self.ledger_up = gauge("ledger_up", "1 when the ledger answered last time.")
        self.telemetry_up = gauge("telemetry_writable", "1 when telemetry can be written.")
        self.compaction_up = gauge("telemetry_compaction_up", "1 when finished segments could be compacted last time.")
        self.drift = gauge("drift_impact", "Impact of drift in the newest period judged.", "period")
        self.quality = gauge("quality", "Quality in the newest period judged, and as promised.", "metric", "kind")
        self._function("ledger_age_seconds", "Since the ledger answered.", lambda: time.monotonic() - self._answered())
        self._function("telemetry_written_bytes", "Bytes recorded by this process.", lambda: recorder.written_bytes)
        self._function("telemetry_waiting_bytes", "Bytes not compacted yet.", lambda: pending_bytes(telemetry))
        self._function(
            "telemetry_lag_seconds", "Age of the oldest row not compacted yet.", lambda: oldest_pending_s(telemetry)
        )
        self.shipping_up = Gauge(
            "trimtab_shipping_up", "1 when telemetry could be brought to the store last time.",
            registry=registry if ships else None,
        )  # fmt: skip
        if ships:
            self._function(
                "shipping_waiting_bytes", "Bytes that the store has not.",
                lambda: pending_bytes(telemetry, with_parts=True),
            )  # fmt: skip
            self._function(
                "shipping_lag_seconds", "Age of the oldest row that the store has not.",
                lambda: oldest_pending_s(telemetry, with_parts=True),
            )  # fmt: skip
        self._held = gauge("keys", "Keys that open the server, by scope.", "scope")
        self._rows = lru_cache(maxsize=16)(self.rows.labels)
        self._calls = lru_cache(maxsize=16)(self.calls.labels)

    def _function(self, name: str, about: str, read: Callable[[], float]) -> None:
        Gauge(f"trimtab_{name}", about, registry=self.registry).set_function(read)

    def _answered(self) -> float:
        return self.ledger_answered_at

    def register_keys(self, count: Callable[[str], int]) -> None:
        """Show how many keys there are: that is how one sees that every replica has read a file again."""
        for scope in SCOPES:
            self._held.labels(scope).set_function(partial(count, scope))

    def observe_answers(self, release: str, arm: str, rows: int) -> None:
        """Rows were recorded and will be answered."""
        self._rows(release, arm).inc(rows)

    def observe_batch(self, round: MicroBatch) -> None:
        """The champion has scored a round."""
        self.batch.observe(round.rows.size)
        self._calls(round.champion.digest).observe(round.champion_s)

    def observe_challenger(self, release: str, outcome: ChallengerResult, *, errors: int, missing: int) -> None:
        """A challenger has scored a round, more or less."""
        if outcome.seconds > 0:  # it was asked
            self._calls(release).observe(outcome.seconds)
        for name, rows in (("error", errors), ("missing", missing), ("ok", len(outcome.usable) - errors - missing)):
            if rows:
                self.challenged.labels(release, name).inc(rows)

    def set_live(self, state: ServingState) -> None:
        """Note who answers from now on."""
        self.swaps.inc()
        self.info.clear()
        self.refused.clear()
        self.ledger_version.set(state.version)
        self.share.set(state.share)
        for arm, loaded in (("champion", state.champion), ("challenger", state.challenger)):
            if loaded is not None:
                self.info.labels(loaded.digest, loaded.version, arm, loaded.route).set(1)
        if state.challenger_digest is not None:
            self.refused.labels(state.challenger_digest).set(state.unavailable_reason is not None)

    def set_decision(self, period: str, evidence: dict[str, Any]) -> None:
        """What monitoring concluded last."""
        self.drift.clear()
        self.quality.clear()
        if isinstance(impact := evidence.get("impact"), int | float):
            self.drift.labels(period).set(impact)
        quality = (evidence.get("facts") or {}).get("quality") or {}
        for kind in ("live", "promised"):
            if isinstance(value := quality.get(kind), int | float):
                self.quality.labels(quality.get("metric", ""), kind).set(value)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)


class RecorderMetrics:
    """What the recorder counts by itself."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """For the registry."""
        now = self._recorder.counters
        rows = CounterMetricFamily("trimtab_telemetry_rows", "Rows recorded.", labels=["stream"])
        for stream in ("predictions", "pairs", "labels"):
            rows.add_metric([stream], getattr(now, stream))
        yield rows
        yield CounterMetricFamily("trimtab_telemetry_lost_pairs", "Pairs that could not be written.", now.lost_pairs)
        yield CounterMetricFamily("trimtab_telemetry_records", "Records written.", now.records)
        yield CounterMetricFamily("trimtab_telemetry_writing_seconds", "Making and writing records.", now.writing_s)
        yield GaugeMetricFamily("trimtab_telemetry_longest_seconds", "The longest of these.", now.longest_s)
