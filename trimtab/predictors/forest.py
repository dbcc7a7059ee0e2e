"""Forests and gradient boosting through treelite, whose General Tree Inference Library walks the trees."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from trimtab.data.arrays import Floats
from trimtab.predictors.dense_blocks import DenseBlock
from trimtab.predictors.link_functions import Link
from trimtab.predictors.preprocessing import NotCompilable

_MAX_ROWS = 4096  # so that the matrix stays small
_MAX_TREELITE_ROWS = 256  # for more rows scikit-learn is faster, as its overhead is shared; measured


class ForestPredictor:
    """An ensemble of trees on float32 values: treelite scores few rows, on one thread, and scikit-learn scores many."""

    backend = "treelite"

    def __init__(self, model: Any, blocks: list[DenseBlock], link: Link | None) -> None:
        """*link* is None when the prediction is the trees' mean. It replaces treelite's own softmax, which computes in
        float32. Raises NotCompilable."""
        import treelite.sklearn
        from treelite import TreeliteError

        self._link, self._model = link, model
        self._blocks, self._width = blocks, sum(block.width for block in blocks)
        if self._width != model.n_features_in_:
            raise NotCompilable("the model takes other columns than the preprocessing makes")
        try:
            self._trees = treelite.sklearn.import_model(model)
        except (TreeliteError, RuntimeError, AssertionError) as error:
            raise NotCompilable(f"treelite: {error}") from error

    def predict(self, columns: Mapping[str, Any], size: int) -> Floats:
        """Predictions for *size* rows, as `Predictor.predict` describes them."""
        from treelite import gtil

        if size > _MAX_ROWS:
            parts = range(0, size, _MAX_ROWS)
            return np.concatenate(
                [
                    self.predict(
                        {name: values[i : i + _MAX_ROWS] for name, values in columns.items()}, min(_MAX_ROWS, size - i)
                    )
                    for i in parts
                ]
            )
        matrix = np.zeros((size, self._width), dtype=np.float32)
        with np.errstate(over="ignore"):
            for block in self._blocks:
                block.write(columns, matrix)
        if size > _MAX_TREELITE_ROWS:
            return self._predict_sklearn(matrix)
        exact = matrix.astype(np.float64)
        found: Floats = gtil.predict(self._trees, exact, nthread=1, pred_margin=self._link is not None)
        found = found.reshape(size, -1)
        if self._link is not None:
            return self._link(found)
        return found[:, -1] if found.shape[1] <= 2 else found

    def _predict_sklearn(self, matrix: Any) -> Floats:
        if not hasattr(self._model, "classes_"):
            return np.asarray(self._model.predict(matrix), dtype=np.float64)
        shares = np.asarray(self._model.predict_proba(matrix), dtype=np.float64)
        return np.ascontiguousarray(shares[:, 1]) if shares.shape[1] == 2 else shares

    def split_points(self) -> dict[str, Floats]:
        """Empty: the split points are not read from the trees, so only real rows are compared."""
        return {}
