"""Means over blocks of data time, such as days, with a confidence sequence.

Labels of one day are correlated: they share weather, events and errors in the data. So here a block counts as one
observation, where `trimtab.rollout.sequential_test` counts each label.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import numpy as np

from trimtab.data.arrays import Floats, Ints

MIN_BLOCKS = 5
_FULL_ENOUGH = 0.2  # of the median number of rows; leaves out a block that has just begun
_TIGHTEST_AT = 10  # blocks


@dataclass(frozen=True)
class BlockMean:
    """A mean over *blocks* blocks, each counted once, and the half width of its confidence sequence."""

    blocks: int
    mean: float
    half_width: float

    def not_worse(self, margin: float) -> bool:
        """Whether the mean is shown to be below *margin*."""
        return self.blocks >= MIN_BLOCKS and self.mean + self.half_width < margin

    def worse(self, margin: float = 0.0) -> bool:
        """Whether the mean is shown to be above *margin*."""
        return self.blocks >= MIN_BLOCKS and self.mean - self.half_width > margin

    def describe(self, block: timedelta) -> str:
        """Return the mean and its half width as text.

        >>> BlockMean(12, 0.001, 0.0004).describe(timedelta(days=1))
        '+0.0010 ± 0.0004 over 12 days'
        """
        name = "days" if block == timedelta(days=1) else f"blocks of {block}"
        if self.blocks < MIN_BLOCKS:
            return f"{self.blocks} of at least {MIN_BLOCKS} {name}"
        return f"{self.mean:+.4f} ± {self.half_width:.4f} over {self.blocks} {name}"


def block_mean(differences: Floats, times_us: Ints, block: timedelta, alpha: float) -> BlockMean:
    """Return the mean of *differences* over blocks. Nan values are left out.

    *differences* and *times_us* (microseconds since the epoch) have shape (n,). Each block is weighted equally.

    >>> day = 86_400_000_000
    >>> found = block_mean(np.array([1.0, 1.0, 4.0, 4.0]), np.array([0, 1, day, day + 1]), timedelta(days=1), 0.05)
    >>> (found.blocks, found.mean)
    (2, 2.5)
    """
    known = np.isfinite(differences)
    values = differences[known]
    return block_statistic(lambda rows: float(values[rows].mean()), times_us[known], block, alpha)


def block_statistic(measure: Callable[[Ints], float], times_us: Ints, block: timedelta, alpha: float) -> BlockMean:
    """Return the mean over blocks of *measure*, which gets the positions of a block's rows and returns one number.

    Blocks with less than a fifth of the median number of rows are left out, as are blocks where *measure* is nan. The
    half width is infinite with fewer than two blocks. It is that of a one-sided asymptotic confidence sequence at level
    1 - *alpha*, valid at all times at once: Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform central
    limit theory and asymptotic confidence sequences", Annals of Statistics (2024), equation (12), with rho chosen to be
    tightest at 10 blocks.
    """
    if not len(times_us):
        return BlockMean(0, 0.0, float("inf"))
    _, which, sizes = np.unique(
        times_us // int(block.total_seconds() * 1_000_000), return_inverse=True, return_counts=True
    )
    parts = np.split(np.argsort(which, kind="stable"), np.cumsum(sizes)[:-1])
    full = sizes >= _FULL_ENOUGH * np.median(sizes)
    values = np.array([measure(part) for part, is_full in zip(parts, full, strict=True) if is_full])
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return BlockMean(len(values), float(values.mean()) if len(values) else 0.0, float("inf"))
    return BlockMean(len(values), float(values.mean()), float(values.std(ddof=1)) * _width(len(values), alpha))


def _width(count: int, alpha: float) -> float:
    """Half width of the confidence sequence after *count* blocks, in standard deviations."""
    spread = np.log(1 / (2 * alpha))
    rho2 = (2 * spread + np.log(1 + 2 * spread)) / _TIGHTEST_AT
    inner = count * rho2 + 1
    return float(np.sqrt(2 * inner / (count**2 * rho2) * np.log(1 + np.sqrt(inner) / (2 * alpha))))
