"""Estimates how long a model's calls take. Only fast ones run on the event loop, where they delay every request."""

from __future__ import annotations

FAST_S = 0.004
_WEIGHT = 0.2
_SIZES = 24


class LatencyEstimator:
    """Moving averages of one model's call times in seconds, one for each power of two of rows.

    Any thread that calls the model may write. There is no lock: a lost update makes the estimate slightly less precise.
    """

    def __init__(self) -> None:
        self._seconds: list[float | None] = [None] * _SIZES

    def observe(self, rows: int, seconds: float) -> None:
        """Add a call with *rows* rows to the average of its size."""
        size = min(rows.bit_length(), _SIZES - 1)
        before = self._seconds[size]
        self._seconds[size] = seconds if before is None else before + _WEIGHT * (seconds - before)

    def estimate_s(self, rows: int) -> float:
        """The expected seconds of a call with *rows* rows, from the nearest size that was observed: a smaller size's
        time is multiplied, a larger size's is taken as it is. Infinite before the first call."""
        size = min(rows.bit_length(), _SIZES - 1)
        for gap in range(_SIZES):
            if size - gap >= 0 and (known := self._seconds[size - gap]) is not None:
                return known * float(2**gap)
            if size + gap < _SIZES and (known := self._seconds[size + gap]) is not None:
                return known
        return float("inf")

    def is_fast(self, rows: int) -> bool:
        """Whether a call with *rows* rows is expected to take at most 4 ms."""
        return self.estimate_s(rows) <= FAST_S
