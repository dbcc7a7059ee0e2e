"""Counts requests and their times in plain numbers, as a Prometheus client's counters would take longer than a
microsecond. Only the event loop counts; any thread may read."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

LATENCIES_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class RequestMetrics:
    """Requests by path and status, and their times by path. *in_flight* is how many are being answered now: a load
    signal for autoscaling, and 0 when a server has been drained."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._counts: dict[tuple[str, int], int] = {}
        self._times: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}
        self.in_flight = 0
        registry.register(self)

    def observe(self, path: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        key = path, status
        if key not in self._counts:
            self._counts[key] = 0
            self._times.setdefault(path, [0] * (len(LATENCIES_S) + 1))
            self._sums.setdefault(path, 0.0)
        self._counts[key] += 1
        self._times[path][bisect_left(LATENCIES_S, seconds)] += 1
        self._sums[path] += seconds

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]:
        """The metrics; called by the registry."""
        counts = CounterMetricFamily("trimtab_requests", "Requests.", labels=["path", "status"])
        for (path, status), count in list(self._counts.items()):
            counts.add_metric([path, str(status)], count)
        yield counts
        yield GaugeMetricFamily("trimtab_requests_in_flight", "Requests that are being answered.", self.in_flight)
        times = HistogramMetricFamily("trimtab_request_seconds", "Time to an answer.", labels=["path"])
        for path, taken in list(self._times.items()):
            total, buckets = 0, []
            for bound, count in zip((*map(str, LATENCIES_S), "+Inf"), list(taken), strict=True):
                total += count
                buckets.append((bound, total))
            times.add_metric([path], buckets, self._sums[path])
        yield times
