"""Polls each source in its own thread and exports the newest values, so that a scrape takes milliseconds even while a
source is slow or unavailable."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client.core import GaugeMetricFamily

log = logging.getLogger("trimtab.exporter")

INTERVAL_S = 15.0
MISSED_POLLS = 4
"""A source whose last success is this many intervals ago counts as down: its poll hangs."""

Read = Callable[[], Iterable[GaugeMetricFamily]]
Sample = tuple[Sequence[str], float]


def gauge(name: str, description: str, labels: Sequence[str] = (), samples: Iterable[Sample] = ()) -> GaugeMetricFamily:
    """The metric `trimtab_loop_<name>`. Each of *samples* is a tuple of label values and a number."""
    family = GaugeMetricFamily(f"trimtab_loop_{name}", description, labels=labels)
    for values, number in samples:
        family.add_metric(values, number)
    return family


def single(name: str, description: str, number: float | None) -> GaugeMetricFamily:
    """A metric without labels; no sample when *number* is None."""
    return gauge(name, description, samples=[] if number is None else [((), number)])


class PolledSource:
    """A source of metrics that is read every *interval_s*, and its newest values.

    *read* may raise anything: then the older values stay, and `trimtab_loop_up` is 0.
    """

    def __init__(self, name: str, read: Read, *, interval_s: float = INTERVAL_S) -> None:
        self.name, self.interval_s = name, interval_s
        self.metrics: tuple[GaugeMetricFamily, ...] = ()
        self.duration_s: float | None = None
        self.succeeded_at: float | None = None  # monotonic
        self._read = read
        self._succeeded: bool | None = None

    @property
    def age_s(self) -> float | None:
        """Seconds since the last success; None before the first."""
        return None if self.succeeded_at is None else time.monotonic() - self.succeeded_at

    @property
    def is_up(self) -> bool:
        """Whether the last poll succeeded, not too long ago."""
        age = self.age_s
        return bool(self._succeeded) and age is not None and age < MISSED_POLLS * self.interval_s

    def poll(self) -> None:
        """Read once. A failure is logged once, by its type only, because an error's text may contain a secret."""
        start = time.monotonic()
        try:
            self.metrics = tuple(self._read())
        except Exception as error:  # noqa: BLE001 - drivers raise many types
            if self._succeeded is not False:
                log.warning("%s cannot be read: %s", self.name, type(error).__name__)
            self._succeeded = False
            return
        if self._succeeded is False:
            log.warning("%s can be read again", self.name)
        self._succeeded, self.succeeded_at = True, time.monotonic()
        self.duration_s = self.succeeded_at - start


class PollingCollector:
    """Polls the sources between `start` and `stop`. A collector for Prometheus's registry."""

    def __init__(self, sources: Sequence[PolledSource]) -> None:
        self._sources = sources
        self._stopping = threading.Event()

    def start(self) -> None:
        """Start polling; does not wait for the first values."""
        for source in self._sources:
            threading.Thread(target=self._poll_until_stopped, args=(source,), name=source.name, daemon=True).start()

    def stop(self) -> None:
        """Stop polling; does not wait for running polls."""
        self._stopping.set()

    def _poll_until_stopped(self, source: PolledSource) -> None:
        while not self._stopping.is_set():
            source.poll()
            self._stopping.wait(source.interval_s if source.is_up else min(source.interval_s, INTERVAL_S))

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield all metrics; called by the registry."""
        up = gauge("up", "1 if the last poll of this source succeeded.", ["source"])
        duration = gauge("read_seconds", "Duration of the last successful poll.", ["source"])
        age = gauge("read_age_seconds", "Seconds since the last successful poll.", ["source"])
        for source in self._sources:
            up.add_metric([source.name], source.is_up)
            if source.duration_s is not None and source.age_s is not None:
                duration.add_metric([source.name], source.duration_s)
                age.add_metric([source.name], source.age_s)
        yield from (up, duration, age)
        for source in self._sources:
            yield from source.metrics
