"""Inverse link functions: from a model's raw score to its prediction, as in scikit-learn's losses.

McCullagh and Nelder, "Generalized Linear Models", 1989, chapter 2."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from trimtab.data.arrays import Floats

_LOWEST = -700.0  # exp(700) is just below the largest float64; the probability is then 1e-304
Link = Callable[[Floats], Floats]


def identity(raw: Floats) -> Floats:
    """The raw score itself; shape (n, 1) to (n,)."""
    return raw[:, 0]


def exponential(raw: Floats) -> Floats:
    """The inverse of a logarithmic link; shape (n, 1) to (n,). Overflow gives infinity."""
    with np.errstate(over="ignore"):
        return np.exp(raw[:, 0])


def logistic(raw: Floats) -> Floats:
    """The probability of the second of two classes; shape (n, 1) to (n,).

    >>> logistic(np.array([[0.0], [-1000.0]])).round(3).tolist()
    [0.5, 0.0]
    """
    return np.reciprocal(1.0 + np.exp(-np.maximum(raw[:, 0], _LOWEST)))


def softmax(raw: Floats) -> Floats:
    """The probabilities of all classes; shape (n, classes) to the same. Each row adds up to 1."""
    shares: Floats = np.exp(raw - raw.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    return shares


REGRESSION: dict[str, Link] = {
    **dict.fromkeys(("squared_error", "absolute_error", "quantile"), identity),
    **dict.fromkeys(("poisson", "gamma"), exponential),
}
