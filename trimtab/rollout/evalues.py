"""E-values and confidence sequences for the mean of bounded numbers. They may be looked at after every number.

The numbers are loss differences in [-1, 1], in the order in which they became known. An e-value is the wealth from
betting against a hypothesis: it rarely becomes large while the hypothesis holds. `trimtab.rollout.sequential_test`
states the hypotheses. All functions work along the last axis.

References:

- Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", Journal of the Royal Statistical
  Society B 86 (2024) 1-27: the bets, their mixture, and the confidence sequence.
- Ville, "Étude critique de la notion de collectif" (1939): a nonnegative supermartingale that starts at 1 reaches
  1/alpha with probability at most alpha.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np

from trimtab.data.arrays import Counts, Floats

# The distances to bet on, as multiples of the margin, and the share of the wealth on each. The first suits a difference
# about as large as the margin; the others detect larger ones sooner. Measured in docs/design/verdict.md.
DISTANCES = (1.0, 4.0, 16.0)
SHARES = (0.4, 0.4, 0.2)
# The distances for intervals, which have no margin: from a quarter of the range to a thousandth.
_WIDTHS = tuple(4.0**-j for j in range(1, 6))
# The largest share of a bet's wealth that one label can take.
_LARGEST_BET = 0.9
# The variance before the first label is that of five labels with a standard deviation of 0.22.
_PRIOR_LABELS, _PRIOR_SQUARES = 5.0, 0.25
_HOPELESS = 4.0  # bets whose ln wealth is this far below the best are ignored
_MOST = 600.0  # ln of the largest wealth, so that exp does not overflow
_LAST = 1 - 1e-9  # the largest mean to test: at 1 a bet is not defined


def against_worse(differences: Floats, margin: float) -> Floats:
    """Return ln of the e-value after each label against "the mean is *margin* or more", shape (..., n).

    Large values show that the challenger is not worse by *margin*.

    >>> float(against_worse(np.zeros(1000), 0.01)[-1]) > math.log(20)
    True
    """
    return log_wealth(margin - differences, running_variance(differences), worst=1 - margin, unit=margin)


def against_not_worse(differences: Floats, threshold: float, *, unit: float) -> Floats:
    """Return ln of the e-value after each label against "the mean is *threshold* or less", shape (..., n).

    Large values show that the challenger is worse by more than *threshold*. *unit* is the margin: the size of a small
    difference beyond the threshold.
    """
    return log_wealth(differences - threshold, running_variance(differences), worst=1 + threshold, unit=unit)


def log_wealth(gains: Floats, variance: Floats, *, worst: float, unit: float) -> Floats:
    """Return ln of the wealth, from 1, after betting on each of *gains*: shape (..., n), like *gains* and *variance*.

    The wealth is the mean, weighted by `SHARES`, of one product per distance d in `DISTANCES` times *unit*:
    prod(1 + b gain), b = d / (variance + d²), at most 0.9 / *worst*, where no gain is below -*worst*. This b is close
    to the bet that grows fastest when the mean gain is d (Kelly 1956, second-order expansion). *variance* is the
    prediction from earlier labels (`running_variance`), so the wealth is a nonnegative supermartingale while the
    expected gain, given the past, is at most 0.
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
    """Return the variance predicted before each label from the labels before it: shape (..., n).

    It starts as if five labels with a standard deviation of 0.22 had been seen.
    """
    seen = np.arange(1, differences.shape[-1] + 1)
    total, squares = np.cumsum(differences, axis=-1), np.cumsum(differences**2, axis=-1)
    after = (_PRIOR_SQUARES + squares - total**2 / seen) / (_PRIOR_LABELS + seen)
    before = np.empty_like(after)
    before[..., :1] = _PRIOR_SQUARES / _PRIOR_LABELS
    before[..., 1:] = after[..., :-1]
    return before


def first_crossing(path: Floats, alpha: float) -> Counts:
    """Return the number of labels after which an e-value first reached 1/*alpha*; 0 if never. Shape (...).

    *path* holds ln e-values, shape (..., n).

    >>> first_crossing(np.log([[1.0, 25.0, 3.0], [1.0, 2.0, 3.0]]), 0.05).tolist()
    [2, 0]
    """
    reached = path >= -math.log(alpha)
    if not path.shape[-1]:
        return np.zeros(path.shape[:-1], dtype=np.intp)
    return np.where(reached.any(axis=-1), reached.argmax(axis=-1) + 1, 0)


def interval(differences: Floats, *, alpha: float) -> tuple[float, float]:
    """Return the confidence sequence (low, high) for the mean of *differences*, shape (n,), at level 1 - *alpha*.

    It holds at all times at once. It contains the means that bets on either side have not rejected at alpha/2
    (inversion of the test, Waudby-Smith and Ramdas 2024). Without numbers it is (-1, 1).

    >>> low, high = interval(np.tile([0.1, -0.1], 500), alpha=0.05)
    >>> low < 0 < high
    True
    """
    if not len(differences):
        return -1.0, 1.0
    variance = running_variance(differences)
    bets = np.stack([width / (variance + width**2) for width in _WIDTHS])
    return -_upper(-differences, bets, alpha / 2), _upper(differences, bets, alpha / 2)


def _upper(differences: Floats, bets: Floats, alpha: float) -> float:
    """Return the smallest mean for which "the mean is this or more" is rejected at *alpha*."""
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
    bets = bets[ahead > ahead.max() - _HOPELESS]  # dropping small ones is conservative
    while evidence(high) < 0:
        if high == _LAST:
            return 1.0
        low, high = high, min(start + 1.5 * (high - start), _LAST)
    return _root(evidence, low, high, precision=0.01 * (high - start))


def _root(rising: Callable[[float], float], low: float, high: float, *, precision: float) -> float:
    """Return where the increasing function *rising* reaches 0 in [*low*, *high*], rounded up by at most *precision*.

    Returns *low* if *rising* is not negative there. The values at *low* and *high* are computed more than once.
    """
    from scipy.optimize import brentq  # 0.4 s to import; scikit-learn imports it too

    if rising(low) >= 0:
        return low
    found = float(brentq(rising, low, high, xtol=precision / 2))
    return min(found + precision / 2, high)


def detectable(labels: int, sd: float, *, alpha: float, power: float = 0.8, margin: float = 0.002) -> float:
    """Return the smallest distance from the hypothesis that *labels* labels show with probability *power*.

    For planning: *sd* is the standard deviation of the differences, the wealth is approximated to the second order, and
    the mean of the labels is taken as normal. Returns 1.0 when no difference would show.

    >>> detectable(2000, 0.05, alpha=0.05) < detectable(500, 0.05, alpha=0.05)
    True
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
