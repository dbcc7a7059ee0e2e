"""Evidence about the mean of bounded numbers that may be looked at after every one of them: bets against a hypothesis,
whose wealth hardly ever grows large while the hypothesis holds. What is hypothesised about which numbers, and what
follows, is `trimtab.rollout.sequential_test`'s business.

The numbers here are differences of losses in -1 to 1 in the order in which they became known. All functions work along
the last axis, so that many streams can be judged at once. Sources: Waudby-Smith and Ramdas, "Estimating means of
bounded random variables by betting", J. R. Stat. Soc. B 86 (2024) 1-27, for the bets, their mixture and the interval;
Ville, "Étude critique de la notion de collectif" (1939), for the inequality: a nonnegative supermartingale that starts
at 1 ever reaches 1/alpha with a probability of at most alpha."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np

from trimtab.model.scoring import Floats

Counts = np.ndarray[Any, np.dtype[np.intp]]

# What one may bet on, as multiples of the margin, and the share of the wealth on each. The first is for what is usual,
# a difference about as large as the margin; the others find larger ones sooner. Measured: docs/design/verdict.md.
DISTANCES = (1.0, 4.0, 16.0)
SHARES = (0.4, 0.4, 0.2)
# An interval has no margin to go by: from a quarter of the range down to a thousandth.
_WIDTHS = tuple(4.0**-j for j in range(1, 6))
# The most that one label may cost a bet: 1 would be all of it.
_LARGEST_BET = 0.9
# The variance before the first label is that of five labels with a standard deviation of 0.22.
_PRIOR_LABELS, _PRIOR_SQUARES = 5.0, 0.25
_HOPELESS = 4.0  # a bet whose ln wealth is so far behind the best
_MOST = 600.0  # ln of the largest wealth that is told apart
_LAST = 1 - 1e-9  # a mean of 1 leaves nothing to bet against


def against_worse(differences: Floats, margin: float) -> Floats:
    """ln e-value after each label against "the mean is *margin* or more": large when the challenger is not worse."""
    return log_wealth(margin - differences, running_variance(differences), worst=1 - margin, unit=margin)


def against_not_worse(differences: Floats, threshold: float, *, unit: float) -> Floats:
    """ln e-value after each label against "the mean is *threshold* or less": large when the challenger is worse.

    *unit* is the margin: what counts as a small difference beyond the threshold.
    """
    return log_wealth(differences - threshold, running_variance(differences), worst=1 + threshold, unit=unit)


def log_wealth(gains: Floats, variance: Floats, *, worst: float, unit: float) -> Floats:
    """ln of what 1 has become by betting on positive *gains*, after each of them: the same shape, (..., n).

    The wealth is the mean, weighted by `SHARES`, of one product per distance d in `DISTANCES` times *unit*:
    prod(1 + b gain), b = d / (variance + d²), which is about the best bet when the mean gain is d (Kelly 1956, to the
    second order), at most 0.9 / *worst*, where no gain is below -*worst*. Each bet is made with
    what was known before its label, so the wealth is a nonnegative supermartingale as long as the expected gain, given
    what came before, is at most 0.
    """
    total = np.zeros(gains.shape)
    for distance, share in zip(DISTANCES, SHARES, strict=True):
        wealth = _bets(variance, distance * unit, worst)
        wealth *= gains
        wealth += 1
        np.log(wealth, out=wealth)
        np.cumsum(wealth, axis=-1, out=wealth)
        np.exp(np.minimum(wealth, _MOST, out=wealth), out=wealth)
        wealth *= share
        total += wealth
    with np.errstate(divide="ignore"):
        return np.log(total, out=total)


def running_variance(differences: Floats) -> Floats:
    """What one would have guessed as the variance before each label, from those before it: shape (..., n)."""
    seen = np.arange(1, differences.shape[-1] + 1)
    total, squares = np.cumsum(differences, axis=-1), np.cumsum(differences**2, axis=-1)
    after = (_PRIOR_SQUARES + squares - total**2 / seen) / (_PRIOR_LABELS + seen)
    before = np.empty_like(after)
    before[..., :1] = _PRIOR_SQUARES / _PRIOR_LABELS
    before[..., 1:] = after[..., :-1]
    return before


def first_crossing(path: Floats, alpha: float) -> Counts:
    """The number of labels after which an e-value first reached 1/*alpha*, shape (...); 0 where it has not."""
    reached = path >= -math.log(alpha)
    if not path.shape[-1]:
        return np.zeros(path.shape[:-1], dtype=np.intp)
    return np.where(reached.any(axis=-1), reached.argmax(axis=-1) + 1, 0)


def interval(differences: Floats, *, alpha: float) -> tuple[float, float]:
    """Holds the mean of *differences*, shape (n,), at all times at once with probability 1 - *alpha*.

    The means that a bet on either side has not refuted at alpha/2 (inversion, as in Waudby-Smith and Ramdas).
    """
    if not len(differences):
        return -1.0, 1.0
    variance = running_variance(differences)
    bets = np.stack([width / (variance + width**2) for width in _WIDTHS])
    return -_upper(-differences, bets, alpha / 2), _upper(differences, bets, alpha / 2)


def _upper(differences: Floats, bets: Floats, alpha: float) -> float:
    """The smallest mean such that "it is this or more" is refuted."""
    share = math.log(1 / len(bets))

    def wealth(mean: float) -> Floats:
        logs = np.minimum(bets, _LARGEST_BET / (1 - mean))
        logs *= mean - differences
        logs += 1
        found: Floats = np.log(logs, out=logs).sum(axis=-1)
        return found

    @functools.cache
    def evidence(mean: float) -> float:
        return float(np.logaddexp.reduce(wealth(mean))) + share + math.log(alpha)

    start = min(max(float(differences.mean()), -1.0), _LAST)
    doubt = math.sqrt(-2 * math.log(alpha) * (float(differences.var()) + 1 / len(differences)) / len(differences))
    low, high = start, min(start + 1.3 * doubt, _LAST)
    ahead = wealth(high)
    bets = bets[ahead > ahead.max() - _HOPELESS]  # the others would add next to nothing, and leaving them out is safe
    while evidence(high) < 0:
        if high == _LAST:
            return 1.0
        low, high = high, min(start + 1.5 * (high - start), _LAST)
    return _root(evidence, low, high, precision=0.01 * (high - start))


def _root(rising: Callable[[float], float], low: float, high: float, *, precision: float) -> float:
    """Where *rising* reaches 0 between *low* and *high*, rounded up by at most *precision*.

    *low* where it is not negative even there. The values at *low* and *high* are asked for more than once.
    """
    from scipy.optimize import brentq  # 0.4 s to import, which scikit-learn does too

    if rising(low) >= 0:
        return low
    found = float(brentq(rising, low, high, xtol=precision / 2))
    return min(found + precision / 2, high)


def detectable(labels: int, sd: float, *, alpha: float, power: float = 0.8, margin: float = 0.002) -> float:
    """The smallest difference, from the hypothesis refuted, that *labels* labels show with probability *power*.

    An approximation for planning: *sd* is the standard deviation of the differences, the wealth is taken at its
    second-order expansion, and the mean of the labels as normal. 1 when not even the largest difference would show.
    """
    doubt = NormalDist().inv_cdf(power) * sd / math.sqrt(labels)

    def excess(distance: float) -> float:
        bets = [min(d / (sd**2 + d**2), _LARGEST_BET) for d in (margin * multiple for multiple in DISTANCES)]
        seen = distance - doubt
        growth = [b * seen - b**2 * (sd**2 + seen**2) / 2 for b in bets]
        wealth = [math.log(share) + labels * g for share, g in zip(SHARES, growth, strict=True)]
        return float(np.logaddexp.reduce(wealth)) + math.log(alpha)

    return _root(excess, 0.0, 1.0, precision=1e-6) if excess(1.0) > 0 else 1.0


def _bets(variance: Floats, distance: float, worst: float) -> Floats:
    bets: Floats = distance / (variance + distance**2)
    return np.minimum(bets, _LARGEST_BET / worst, out=bets)
