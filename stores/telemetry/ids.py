"""Prediction ids. An id carries its row's data time, so that a label, which comes with nothing but the id, can be
stored and found by time without looking anything up."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterable

_EPOCH_S = 62_135_596_800  # seconds from year 1 to 1970: keeps every time that Python knows positive
_SHAPE = re.compile(r"[0-9a-f]{32}")


class Ids:
    """Ids unique over threads, processes, machines and restarts: 10 hex digits of data time in seconds, 14 random
    ones for this life of the process, 8 of a counter."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._renew()

    def _renew(self) -> None:
        self._life, self._next = os.urandom(7).hex(), 0

    def take(self, times_us: Iterable[int]) -> list[str]:
        """One id per data time."""
        times = list(times_us)
        with self._lock:
            if self._next + len(times) > 0xFFFFFFFF:
                self._renew()
            life, first = self._life, self._next
            self._next += len(times)
        return [f"{us // 1_000_000 + _EPOCH_S:010x}{life}{number:08x}" for number, us in enumerate(times, start=first)]


def is_prediction_id(text: object) -> bool:
    """Whether *text* can be an id that `Ids` made."""
    return isinstance(text, str) and _SHAPE.fullmatch(text) is not None


def data_time_us(prediction_id: str) -> int:
    """The data time in an id, in UTC microseconds, cut to the second."""
    return (int(prediction_id[:10], 16) - _EPOCH_S) * 1_000_000


def first_id(time_us: int) -> str:
    """What every id of the second that *time_us* is in, or later, compares greater than or equal to, as text."""
    seconds = time_us // 1_000_000 + _EPOCH_S
    return f"{min(max(seconds, 0), 0xFFFFFFFFFF):010x}"
