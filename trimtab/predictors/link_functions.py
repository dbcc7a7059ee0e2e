"""From a model's raw sum to its answer, as scikit-learn's losses do it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from trimtab.data.arrays import Floats

_LOWEST = -700.0  # e to the 700 is near the largest number there is; the probability is 1e-304 and may as well stay
Link = Callable[[Floats], Floats]


def identity(raw: Floats) -> Floats:
    """Shape (n, 1) to (n,)."""
    return raw[:, 0]


def exponential(raw: Floats) -> Floats:
    """For losses with a logarithmic link; shape (n, 1) to (n,)."""
    with np.errstate(over="ignore"):
        return np.exp(raw[:, 0])


def logistic(raw: Floats) -> Floats:
    """The probability of the second of two classes; shape (n, 1) to (n,)."""
    return np.reciprocal(1.0 + np.exp(-np.maximum(raw[:, 0], _LOWEST)))


def softmax(raw: Floats) -> Floats:
    """Probabilities of all classes, shape (n, classes)."""
    shares: Floats = np.exp(raw - raw.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    return shares


REGRESSION: dict[str, Link] = {
    **dict.fromkeys(("squared_error", "absolute_error", "quantile"), identity),
    **dict.fromkeys(("poisson", "gamma"), exponential),
}
