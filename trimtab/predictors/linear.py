"""Linear models as one matrix product."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from trimtab.data.arrays import Floats
from trimtab.predictors.dense_blocks import CategoryBlock, DenseBlock, NumericBlock
from trimtab.predictors.link_functions import Link
from trimtab.predictors.preprocessing import NotCompilable


class LinearPredictor:
    """A linear model: a matrix product for the numbers, and for each category a table of products with the weights."""

    backend = "linear"

    def __init__(self, model: Any, blocks: list[DenseBlock], link: Link) -> None:
        weights = np.atleast_2d(np.asarray(model.coef_, dtype=np.float64))
        if weights.shape[1] != sum(block.width for block in blocks):
            raise NotCompilable("the model takes other columns than the preprocessing makes")
        self._link, self._intercept = link, np.atleast_1d(np.asarray(model.intercept_, dtype=np.float64))
        self._outputs = len(weights)
        self._numbers = [(p, weights[:, p.start : p.start + p.width].T) for p in blocks if isinstance(p, NumericBlock)]
        self._categories = [(p.name, p.codes, p.products(weights.T)) for p in blocks if isinstance(p, CategoryBlock)]

    def predict(self, columns: Mapping[str, Any], size: int) -> Floats:
        """Predictions for *size* rows, as `Predictor.predict` describes them."""
        raw = np.tile(self._intercept, (size, 1))
        for numbers, weights in self._numbers:
            raw += numbers.values(columns) @ weights
        for name, codes, products in self._categories:
            raw += products[codes.encode(columns[name])]
        return self._link(raw)

    def split_points(self) -> dict[str, Floats]:
        """Empty: a linear model has no split points."""
        return {}
