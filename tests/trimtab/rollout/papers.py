"""The formulas of the papers behind verdicts, one number after another in plain Python, to compare the product with.

Numbers lie in 0 to 1, as in the papers; the product's lie in -1 to 1. Sources: Waudby-Smith and Ramdas, "Estimating
means of bounded random variables by betting", J. R. Stat. Soc. B 86 (2024) 1-27, called *betting*; Waudby-Smith,
Arbour, Sinha, Kennedy and Ramdas, "Time-uniform central limit theory and asymptotic confidence sequences", Annals of
Statistics 52 (2024), called *asymptotic*.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, median, stdev

PRIOR_NUMBERS, PRIOR_VARIANCE = 5, 0.0125  # five numbers with a standard deviation of 0.11
LARGEST_BET = 0.9


@dataclass
class Spread:
    """The variance of the numbers up to now, with the prior's, by Welford's recursion (Technometrics 4, 1962)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    @property
    def variance(self) -> float:
        return (PRIOR_NUMBERS * PRIOR_VARIANCE + self.squares) / (PRIOR_NUMBERS + self.count)

    def add(self, number: float) -> None:
        self.count += 1
        before = number - self.mean
        self.mean += before / self.count
        self.squares += before * (number - self.mean)


def capital(
    numbers: Sequence[float], mean: float, distances: Sequence[float], shares: Sequence[float]
) -> Iterator[float]:
    """The capital process of *betting* against "the mean is *mean* or less", after each number.

    K = sum over strategies of share * prod(1 + lambda_i (X_i - mean)). The strategy for a distance d bets
    lambda = d / (variance + d²), its approximate Kelly bet, at most 0.9 / mean, from the numbers before X_i alone.
    """
    stakes, spread = list(shares), Spread()
    for number in numbers:
        for k, distance in enumerate(distances):
            bet = min(distance / (spread.variance + distance**2), LARGEST_BET / mean)
            stakes[k] *= 1 + bet * (number - mean)
        spread.add(number)
        yield sum(stakes)


def e_values(numbers: Sequence[float], mean: float, unit: float) -> list[float]:
    """The capital of a bettor with 40 % on a distance of one *unit*, 40 % on four, and 20 % on 16."""
    return list(capital(numbers, mean, [unit, 4 * unit, 16 * unit], [0.4, 0.4, 0.2]))


def upper_bound(numbers: Sequence[float], alpha: float) -> float:
    """The smallest mean that bets against "the mean is this or more" refute at *alpha*: 1 if none is.

    The bets look for five distances, from an eighth of the range down to a 2048th, with equal shares.
    """
    mirrored, distances = [1 - number for number in numbers], [0.5 * 4.0**-k for k in range(1, 6)]

    def refuted(mean: float) -> bool:
        *_, last = capital(mirrored, 1 - mean, distances, [0.2] * 5)
        return last >= 1 / alpha

    return bisect(refuted, fmean(numbers), 1 - 1e-9) if refuted(1 - 1e-9) else 1.0


def empirical_bernstein(numbers: Sequence[float], alpha: float) -> tuple[float, float]:
    """The predictable plug-in empirical Bernstein confidence sequence, Theorem 2 of *betting*, after all numbers."""
    bets = weighted = squares = total = around = 0.0
    mean, variance = 0.5, 0.25
    for t, number in enumerate(numbers, 1):
        bet = min(math.sqrt(2 * math.log(2 / alpha) / (variance * t * math.log(1 + t))), 0.5)
        bets += bet
        weighted += bet * number
        squares += 4 * (number - mean) ** 2 * (-math.log(1 - bet) - bet) / 4
        total += number
        mean = (0.5 + total) / (t + 1)
        around += (number - mean) ** 2
        variance = (0.25 + around) / (t + 1)
    return (weighted - math.log(2 / alpha) - squares) / bets, (weighted + math.log(2 / alpha) + squares) / bets


def mixture_boundary(count: int, alpha: float, *, tightest_at: float) -> float:
    """How far above its mean an average of *count* standard normal numbers ever gets, at most *alpha* of the time.

    The one-sided sequence of *asymptotic* comes from a mixture of exp(a S - a² t / 2), where S is the sum of t numbers
    and a half-normal with scale rho (Robbins, Ann. Math. Stat. 41, 1970): it crosses 1/alpha where
    2 / sqrt(t rho² + 1) * exp(rho² S² / (2 (t rho² + 1))) * Phi(rho S / sqrt(t rho² + 1)) does. rho² is the one that
    *asymptotic* gives for the two-sided sequence at 2 alpha.
    """
    rho2 = (-2 * math.log(2 * alpha) + math.log(1 - 2 * math.log(2 * alpha))) / tightest_at
    inner = count * rho2 + 1

    def crossed(average: float) -> bool:
        total = count * average
        share = NormalDist().cdf(total * math.sqrt(rho2 / inner))
        return math.log(2 * share / math.sqrt(inner)) + rho2 * total**2 / (2 * inner) >= -math.log(alpha)

    return bisect(crossed, 0.0, 100.0)


def closed_form(count: int, alpha: float, *, tightest_at: float) -> float:
    """An upper bound of `mixture_boundary` in closed form, the sequence that *asymptotic* states."""
    two_sided = 2 * alpha
    rho = math.sqrt((-2 * math.log(two_sided) + math.log(-2 * math.log(two_sided) + 1)) / tightest_at)
    scale = 2 * (count * rho**2 + 1) / (count**2 * rho**2)
    return math.sqrt(scale * math.log(1 + math.sqrt(count * rho**2 + 1) / two_sided))


@dataclass(frozen=True)
class Blocks:
    """The mean of so many blocks' means, and its half width."""

    count: int
    mean: float
    half_width: float


def block_average(values: Sequence[float], blocks: Sequence[int], alpha: float) -> Blocks:
    """Each block counts once; one with less than a fifth of the usual number of values is left out."""
    grouped: dict[int, list[float]] = {}
    for value, block in zip(values, blocks, strict=True):
        grouped.setdefault(block, []).append(value)
    usual = median(len(members) for members in grouped.values()) if grouped else 0
    means = [fmean(members) for members in grouped.values() if len(members) >= usual / 5]
    if len(means) < 2:
        return Blocks(len(means), sum(means), math.inf)
    return Blocks(len(means), fmean(means), stdev(means) * closed_form(len(means), alpha, tightest_at=10))


def bisect(is_above: Callable[[float], bool], low: float, high: float) -> float:
    """The smallest number between *low* and *high* that is above."""
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if is_above(middle) else (middle, high)
    return high
