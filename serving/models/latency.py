"""How long a model's calls take, so that only quick ones are made where everybody waits: on the event loop."""

from __future__ import annotations

QUICK_S = 0.004
_WEIGHT = 0.2
_SIZES = 24


class LatencyEstimator:
    """What one model's calls took lately, by number of rows in powers of two. Written by whoever calls the model; a
    lost update between threads costs nothing but a little precision."""

    def __init__(self) -> None:
        self._seconds: list[float | None] = [None] * _SIZES

    def observe(self, rows: int, seconds: float) -> None:
        """A call took that long."""
        size = min(rows.bit_length(), _SIZES - 1)
        before = self._seconds[size]
        self._seconds[size] = seconds if before is None else before + _WEIGHT * (seconds - before)

    def estimate_s(self, rows: int) -> float:
        """What a call with that many rows will take; infinite while nobody knows."""
        size = min(rows.bit_length(), _SIZES - 1)
        for gap in range(_SIZES):
            if size - gap >= 0 and (known := self._seconds[size - gap]) is not None:
                return known * float(2**gap)
            if size + gap < _SIZES and (known := self._seconds[size + gap]) is not None:
                return known
        return float("inf")

    def is_fast(self, rows: int) -> bool:
        """Whether a call with that many rows is a quick one."""
        return self.estimate_s(rows) <= QUICK_S
