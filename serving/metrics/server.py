"""The model server's Prometheus metrics."""

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
    from serving.models.loaded import ServingState
    from stores.telemetry import Recorder

_CALLS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096, 16384)


class ServerMetrics:
    """One server's metrics, in its own registry. With *uploads*, the upload of telemetry has metrics too."""

    def __init__(self, telemetry: Path, recorder: Recorder, *, uploads: bool = False) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = RequestMetrics(registry)
        registry.register(RecorderMetrics(recorder))
        self.ledger_read_at = time.monotonic()

        def counter(name: str, about: str, *labels: str) -> Counter:
            return Counter(f"trimtab_{name}", about, labels, registry=registry)

        def gauge(name: str, about: str, *labels: str) -> Gauge:
            return Gauge(f"trimtab_{name}", about, labels, registry=registry)

        self.errors = counter("errors", "Requests that failed, by kind of error.", "kind")
        self.rows = counter("predictions", "Rows answered.", "release", "arm")
        self.labels = counter("labels", "Labels by outcome: accepted, duplicates or conflicts.", "outcome")
        self.swaps = counter("swaps", "Changes of the live releases.")
        self.challenged = counter("challenger_rows", "Rows scored by a challenger, by outcome.", "release", "outcome")
        self.pairs_lost = counter("pairs_lost", "Pairs not recorded, as the challenger or telemetry was too slow.")
        self.microbatch = Histogram(
            "trimtab_microbatch_rows", "Rows scored together.", buckets=_SIZES, registry=registry
        )
        self.calls = Histogram(
            "trimtab_model_seconds", "Calls to a model.", ["release"], buckets=_CALLS_S, registry=registry
        )
        self.info = gauge("live_release", "1 for each release that answers.", "release", "version", "arm", "backend")
        self.share = gauge("rollout_share", "Share of the keys that the challenger answers.")
        self.refused = gauge("challenger_refused", "1 for a challenger that is not loaded.", "release")
        self.ledger_version = gauge("ledger_version", "Ledger version that is live.")
        self.ledger_up = gauge("ledger_up", "1 when the ledger could be read last time.")
        self.telemetry_up = gauge("telemetry_writable", "1 when telemetry can be written.")
        self.compaction_up = gauge("telemetry_compaction_up", "1 when the last compaction of segments succeeded.")
        self.drift = gauge("drift_impact", "Impact of drift in the newest checked period.", "period")
        self.quality = gauge("quality", "Quality in the newest checked period, and as promised.", "metric", "kind")
        self._function("ledger_age_seconds", "Seconds since the ledger was read.", self._ledger_age_s)
        self._function("telemetry_written_bytes", "Bytes recorded by this process.", lambda: recorder.written_bytes)
        self._function("telemetry_pending_bytes", "Bytes not compacted yet.", lambda: pending_bytes(telemetry))
        self._function(
            "telemetry_lag_seconds", "Age of the oldest row not compacted yet.", lambda: oldest_pending_s(telemetry)
        )
        self.upload_up = Gauge(
            "trimtab_upload_up", "1 when the last upload of telemetry to the store succeeded.",
            registry=registry if uploads else None,
        )  # fmt: skip
        if uploads:
            self._function(
                "upload_pending_bytes", "Bytes not uploaded to the store yet.",
                lambda: pending_bytes(telemetry, with_parts=True),
            )  # fmt: skip
            self._function(
                "upload_lag_seconds", "Age of the oldest row not uploaded to the store yet.",
                lambda: oldest_pending_s(telemetry, with_parts=True),
            )  # fmt: skip
        self._key_counts = gauge("keys", "API keys of the server, by scope.", "scope")
        self._rows = lru_cache(maxsize=16)(self.rows.labels)
        self._calls = lru_cache(maxsize=16)(self.calls.labels)

    def _function(self, name: str, about: str, read: Callable[[], float]) -> None:
        Gauge(f"trimtab_{name}", about, registry=self.registry).set_function(read)

    def _ledger_age_s(self) -> float:
        return time.monotonic() - self.ledger_read_at

    def register_keys(self, count: Callable[[str], int]) -> None:
        """Show *count(scope)* for every scope: the number shows that a replica has reloaded its key files."""
        for scope in SCOPES:
            self._key_counts.labels(scope).set_function(partial(count, scope))

    def observe_answers(self, release: str, arm: str, rows: int) -> None:
        """Count recorded rows."""
        self._rows(release, arm).inc(rows)

    def observe_batch(self, champion: str, rows: int, seconds: float) -> None:
        """Count a microbatch that *champion* has scored."""
        self.microbatch.observe(rows)
        self._calls(champion).observe(seconds)

    def observe_challenger(self, release: str, seconds: float, *, rows: int, errors: int, missing: int) -> None:
        """Count a microbatch that a challenger has scored; *seconds* is 0 when it was not called."""
        if seconds > 0:
            self._calls(release).observe(seconds)
        for name, count in (("error", errors), ("missing", missing), ("ok", rows - errors - missing)):
            if count:
                self.challenged.labels(release, name).inc(count)

    def set_live(self, state: ServingState) -> None:
        """Show *state* as live."""
        self.swaps.inc()
        self.info.clear()
        self.refused.clear()
        self.ledger_version.set(state.version)
        self.share.set(state.share)
        for arm, loaded in (("champion", state.champion), ("challenger", state.challenger)):
            if loaded is not None:
                self.info.labels(loaded.digest, loaded.version, arm, loaded.backend).set(1)
        if state.challenger_digest is not None:
            self.refused.labels(state.challenger_digest).set(state.unavailable_reason is not None)

    def set_decision(self, period: str, evidence: dict[str, Any]) -> None:
        """Show the drift and quality of monitoring's newest decision."""
        self.drift.clear()
        self.quality.clear()
        if isinstance(impact := evidence.get("impact"), int | float):
            self.drift.labels(period).set(impact)
        quality = (evidence.get("facts") or {}).get("quality") or {}
        for kind in ("live", "promised"):
            if isinstance(value := quality.get(kind), int | float):
                self.quality.labels(quality.get("metric", ""), kind).set(value)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class RecorderMetrics:
    """The telemetry recorder's own counters."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """The metrics; called by the registry."""
        now = self._recorder.counters
        rows = CounterMetricFamily("trimtab_telemetry_rows", "Rows recorded.", labels=["stream"])
        for stream in ("predictions", "pairs", "labels"):
            rows.add_metric([stream], getattr(now, stream))
        yield rows
        yield CounterMetricFamily("trimtab_telemetry_lost_pairs", "Pairs that could not be written.", now.lost_pairs)
        yield CounterMetricFamily("trimtab_telemetry_records", "Records written.", now.records)
        yield CounterMetricFamily("trimtab_telemetry_writing_seconds", "Time spent on writing records.", now.writing_s)
        yield GaugeMetricFamily("trimtab_telemetry_longest_seconds", "Longest time for one record.", now.longest_s)
