"""Whether a difference holds from day to day. Labels of one day share its weather, its news, its bugs: a thousand of
them are not a thousand independent observations, and the e-values of `trimtab.rollout.sequential_test`, which count
each label, would take one strange day for proof. Here a block of data time is one observation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np

from trimtab.model.scoring import Floats

Ints = np.ndarray[Any, np.dtype[np.int64]]

MIN_BLOCKS = 5
_FULL_ENOUGH = 0.2  # of the usual number of labels; the day that has just begun says little
_TIGHTEST_AT = 10  # blocks


@dataclass(frozen=True)
class BlockMean:
    """The mean difference over *blocks* blocks, each counted once, and how far off it may be at any time."""

    blocks: int
    mean: float
    half_width: float

    def not_worse(self, margin: float) -> bool:
        """Shown to stay below *margin*."""
        return self.blocks >= MIN_BLOCKS and self.mean + self.half_width < margin

    def worse(self, margin: float = 0.0) -> bool:
        """Shown to lie above *margin*."""
        return self.blocks >= MIN_BLOCKS and self.mean - self.half_width > margin

    def describe(self, block: timedelta) -> str:
        """For people."""
        name = "days" if block == timedelta(days=1) else f"blocks of {block}"
        if self.blocks < MIN_BLOCKS:
            return f"{self.blocks} of at least {MIN_BLOCKS} {name}"
        return f"{self.mean:+.4f} ± {self.half_width:.4f} over {self.blocks} {name}"


def block_mean(differences: Floats, times_us: Ints, block: timedelta, alpha: float) -> BlockMean:
    """The mean of *differences*, shape (n,), by the blocks that their rows' *times_us* fall in; nan is left out."""
    known = np.isfinite(differences)
    values = differences[known]
    return block_statistic(lambda rows: float(values[rows].mean()), times_us[known], block, alpha)


def block_statistic(measure: Callable[[Ints], float], times_us: Ints, block: timedelta, alpha: float) -> BlockMean:
    """The mean of what *measure* says of the rows of each block (their places are its argument); nan is left out.

    The half width is that of a one-sided asymptotic confidence sequence, which holds at all times at once: equation
    (12) of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform central limit theory and asymptotic
    confidence sequences" (Annals of Statistics 2024), tightest at 10 blocks.
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
    """How many standard deviations a mean of *count* may be off."""
    spread = np.log(1 / (2 * alpha))
    rho2 = (2 * spread + np.log(1 + 2 * spread)) / _TIGHTEST_AT
    inner = count * rho2 + 1
    return float(np.sqrt(2 * inner / (count**2 * rho2) * np.log(1 + np.sqrt(inner) / (2 * alpha))))
