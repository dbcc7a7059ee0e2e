"""How long a model's calls take, so that only quick ones are made where everybody waits: on the event loop."""

from __future__ import annotations

import time

QUICK_S = 0.004
_STALL_S = 0.08
_WARY_S, _WARIEST_S = 5.0, 600.0
_WEIGHT = 0.2
_SIZES = 24


class Pace:
    """What one model's calls took lately, by number of rows in powers of two. Written by whoever calls the model;
    a lost update between threads costs nothing but a little precision."""

    def __init__(self) -> None:
        self._seconds: list[float | None] = [None] * _SIZES
        self._wary_until, self._wary_s = 0.0, _WARY_S

    def note(self, rows: int, seconds: float) -> None:
        """A call took that long. One that took very long makes the model a slow one for a while, however quick the
        others are."""
        size = min(rows.bit_length(), _SIZES - 1)
        before = self._seconds[size]
        self._seconds[size] = seconds if before is None else before + _WEIGHT * (seconds - before)
        if seconds > _STALL_S * max(1.0, rows / 1000):
            self.be_wary()

    def be_wary(self) -> None:
        """Take the model for a slow one for a while, which doubles each time."""
        self._wary_until = time.monotonic() + self._wary_s
        self._wary_s = min(2 * self._wary_s, _WARIEST_S)

    def expected_s(self, rows: int) -> float:
        """What a call with that many rows will take; infinite while nobody knows."""
        size = min(rows.bit_length(), _SIZES - 1)
        if (known := self._seconds[size]) is not None:
            return known
        for gap in range(1, _SIZES):
            if size - gap >= 0 and (known := self._seconds[size - gap]) is not None:
                return known * float(2**gap)
            if size + gap < _SIZES and (known := self._seconds[size + gap]) is not None:
                return known
        return float("inf")

    def quick(self, rows: int) -> bool:
        """Whether a call with that many rows may be made while everybody waits."""
        return self.expected_s(rows) <= QUICK_S and time.monotonic() >= self._wary_until
