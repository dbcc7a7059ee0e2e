"""Prediction ids. An id carries its row's data time, so that a label, which comes with nothing but the id, can be
stored and found by time without looking anything up."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Sequence
from typing import Any

ID_LENGTH = 32
_EPOCH_S = 62_135_596_800  # seconds from year 1 to 1970: keeps every time that Python knows positive
_SHAPE = re.compile(rf"[0-9a-f]{{{ID_LENGTH}}}")
_MANY = 32  # from here on an array of bytes is quicker than a format for each


class PredictionIds:
    """Ids unique over threads, processes, machines and restarts: 10 hex digits of data time in seconds, 14 random
    ones for this life of the process, 8 of a counter."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._renew()

    def _renew(self) -> None:
        self._life, self._next = os.urandom(7), 0

    def new(self, times_us: Sequence[int] | Any) -> list[str]:
        """One id per data time; *times_us* may be an array."""
        size = len(times_us)
        with self._lock:
            if self._next + size > 0xFFFFFFFF:
                self._renew()
            life, first = self._life, self._next
            self._next += size
        if size >= _MANY:
            return _format_many(times_us, life, first)
        times = times_us.tolist() if hasattr(times_us, "tolist") else times_us
        tail, starts = life.hex(), dict[int, str]()
        ids = []
        for number, us in enumerate(times, start=first):
            second = us // 1_000_000
            if second not in starts:
                starts[second] = f"{second + _EPOCH_S:010x}{tail}"
            ids.append(f"{starts[second]}{number:08x}")
        return ids


def _format_many(times_us: Any, life: bytes, first: int) -> list[str]:
    import numpy as np

    size = len(times_us)
    seconds = np.asarray(times_us, dtype=np.int64) // 1_000_000 + _EPOCH_S
    cells = np.empty((size, ID_LENGTH // 2), np.uint8)
    cells[:, :5] = seconds.astype(">i8").view(np.uint8).reshape(size, 8)[:, 3:]
    cells[:, 5:12] = np.frombuffer(life, np.uint8)
    cells[:, 12:] = np.arange(first, first + size, dtype=">u4").view(np.uint8).reshape(size, 4)
    digits = cells.tobytes().hex()
    return [digits[at : at + ID_LENGTH] for at in range(0, len(digits), ID_LENGTH)]


def is_prediction_id(text: object) -> bool:
    """Whether *text* can be an id that `PredictionIds` made."""
    return isinstance(text, str) and _SHAPE.fullmatch(text) is not None


def data_time_us(prediction_id: str) -> int:
    """The data time in an id, in UTC microseconds, cut to the second."""
    return (int(prediction_id[:10], 16) - _EPOCH_S) * 1_000_000


def first_id(time_us: int) -> str:
    """What every id of the second that *time_us* is in, or later, compares greater than or equal to, as text."""
    seconds = time_us // 1_000_000 + _EPOCH_S
    return f"{min(max(seconds, 0), 0xFFFFFFFFFF):010x}"
