"""Read each source again and again, each in a thread of its own, and give out what was read last: a scrape takes
milliseconds, whatever a source does. What is read is in the modules beside this one."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client.core import GaugeMetricFamily

log = logging.getLogger("trimtab.exporter")

EVERY_S = 15.0
ROUNDS_MISSED = 4
"""A source that has missed so many rounds is down, though its last reading went well: the next one hangs."""

Read = Callable[[], Iterable[GaugeMetricFamily]]
Sample = tuple[Sequence[str], float]


def gauge(name: str, about: str, labels: Sequence[str] = (), samples: Iterable[Sample] = ()) -> GaugeMetricFamily:
    """A metric of the loop with its *samples*: values of the labels, and the number."""
    family = GaugeMetricFamily(f"trimtab_loop_{name}", about, labels=labels)
    for values, number in samples:
        family.add_metric(values, number)
    return family


def one(name: str, about: str, number: float | None) -> GaugeMetricFamily:
    """A metric without labels; None leaves it without a sample, as there is nothing to say."""
    return gauge(name, about, samples=[] if number is None else [((), number)])


class Source:
    """One source, read every *every_s*, and what was read of it last. *read* may raise whatever its driver raises: then
    what was known stays, and `trimtab_loop_up` is 0."""

    def __init__(self, name: str, read: Read, *, every_s: float = EVERY_S) -> None:
        self.name, self.every_s = name, every_s
        self.known: tuple[GaugeMetricFamily, ...] = ()
        self.took_s: float | None = None
        self.read_at: float | None = None  # monotonic
        self._read = read
        self._is_well: bool | None = None

    @property
    def age_s(self) -> float | None:
        """Since the last reading that went well."""
        return None if self.read_at is None else time.monotonic() - self.read_at

    @property
    def is_up(self) -> bool:
        """Whether the last reading went well, and not too long ago."""
        age = self.age_s
        return bool(self._is_well) and age is not None and age < ROUNDS_MISSED * self.every_s

    def tend(self) -> None:
        """Read once. What cannot be read is logged once, by the kind of error only: its text may hold an address."""
        began = time.monotonic()
        try:
            self.known = tuple(self._read())
        except Exception as error:  # noqa: BLE001 - drivers raise all kinds; up says 0, and the log says which
            if self._is_well is not False:
                log.warning("%s cannot be read: %s", self.name, type(error).__name__)
            self._is_well = False
            return
        if self._is_well is False:
            log.warning("%s can be read again", self.name)
        self._is_well, self.read_at = True, time.monotonic()
        self.took_s = self.read_at - began


class Rounds:
    """The sources, read over and over between `start` and `stop`. A collector for a registry."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self._stopping = threading.Event()

    def start(self) -> None:
        """Begin, without waiting for the first readings."""
        for source in self._sources:
            threading.Thread(target=self._go_on, args=(source,), name=source.name, daemon=True).start()

    def stop(self) -> None:
        """Read no more. Readings under way are left to end by themselves."""
        self._stopping.set()

    def _go_on(self, source: Source) -> None:
        while not self._stopping.is_set():
            source.tend()
            self._stopping.wait(source.every_s if source.is_up else min(source.every_s, EVERY_S))

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """For the registry."""
        up = gauge("up", "1 when this source of the exporter could be read last time.", ["source"])
        took = gauge("read_seconds", "How long the last reading took.", ["source"])
        age = gauge("read_age_seconds", "Since the last reading that went well.", ["source"])
        for source in self._sources:
            up.add_metric([source.name], source.is_up)
            if source.took_s is not None and source.age_s is not None:
                took.add_metric([source.name], source.took_s)
                age.add_metric([source.name], source.age_s)
        yield from (up, took, age)
        for source in self._sources:
            yield from source.known
