"""Models that take gaps filled, numbers scaled and categories as columns of ones and zeros: linear ones, by one
product, and forests, whose trees treelite walks (its General Tree Inference Library)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from trimtab.data.arrays import Floats
from trimtab.data.features import Feature, assemble
from trimtab.predictors.link_functions import Link
from trimtab.predictors.preprocessing import CategoryCodes, NotCompilable, fitted_steps, is_identity, known_texts

if TYPE_CHECKING:
    from sklearn.compose import ColumnTransformer


@dataclass(frozen=True)
class NumericBlock:
    """Neighbouring columns of the matrix that are numbers: gaps filled, then ``(x - mean) / scale``."""

    names: tuple[str, ...]
    start: int
    fill: Floats
    mean: Floats
    scale: Floats

    @property
    def width(self) -> int:
        """Columns of the matrix."""
        return len(self.names)

    def values(self, columns: Mapping[str, Any]) -> Floats:
        """Shape (n, width)."""
        block = np.array([columns[name] for name in self.names], dtype=np.float64)
        filled: Floats = np.where(np.isnan(block), self.fill[:, np.newaxis], block)
        return ((filled - self.mean[:, np.newaxis]) / self.scale[:, np.newaxis]).T


@dataclass(frozen=True)
class CategoryBlock:
    """One category: for every text a row of *table*, which goes to *width* columns of the matrix from *start* on."""

    name: str
    start: int
    codes: CategoryCodes
    table: Floats

    @property
    def width(self) -> int:
        """Columns of the matrix."""
        return int(self.table.shape[1])

    def values(self, columns: Mapping[str, Any]) -> Floats:
        """Shape (n, width)."""
        found: Floats = self.table[self.codes.codes(columns[self.name])]
        return found


DenseBlock = NumericBlock | CategoryBlock


def dense_blocks(transformer: ColumnTransformer, features: Sequence[Feature]) -> list[DenseBlock]:
    """What a fitted preparation of imputing, scaling and one-hot encoding does, read off it. Raises NotCompilable."""
    found: list[DenseBlock] = []
    for step, taken, start in fitted_steps(transformer, features):
        kinds = {f.kind for f in taken}
        if type(step).__name__ == "OneHotEncoder" and kinds == {"category"}:
            found += _one_hot(step, taken, start)
        elif kinds == {"number"}:
            found.append(_numbers(step, taken, start))
        else:
            raise NotCompilable(f"a {type(step).__name__} on {' and '.join(sorted(kinds))} features is not known here")
    return found


def _numbers(step: Any, taken: list[Feature], start: int) -> NumericBlock:
    width = len(taken)
    fill, mean, scale = np.full(width, np.nan), np.zeros(width), np.ones(width)
    stages = [stage for _, stage in step.steps] if type(step).__name__ == "Pipeline" else [step]
    for place, stage in enumerate(stages):
        name = type(stage).__name__
        if name == "SimpleImputer" and place == 0 and not stage.add_indicator:
            gaps = {f.name: np.full(1, np.nan) for f in taken}
            fill = np.asarray(stage.transform(assemble(gaps, taken, size=1)), dtype=np.float64)[0]
        elif name == "StandardScaler" and place == len(stages) - 1:
            mean = mean if stage.mean_ is None else stage.mean_
            scale = scale if stage.scale_ is None else stage.scale_
        elif not is_identity(stage):
            raise NotCompilable(f"a {name} on numbers is not known here")
    if fill.shape != (width,):
        raise NotCompilable("the imputer drops or adds columns")
    return NumericBlock(tuple(f.name for f in taken), start, fill, mean, scale)


def _one_hot(encoder: Any, taken: list[Feature], start: int) -> list[CategoryBlock]:
    """Asks the encoder for each category's texts in turn, the others missing."""
    if encoder.drop is not None or encoder.sparse_output:
        raise NotCompilable("a one-hot encoder that drops a column or is sparse is not known here")
    rare = getattr(encoder, "infrequent_categories_", [None] * len(taken))
    found: list[CategoryBlock] = []
    for i, feature in enumerate(taken):
        texts = known_texts(encoder, i)
        asked = {
            f.name: texts if f is feature else [known_texts(encoder, j)[0]] * len(texts) for j, f in enumerate(taken)
        }
        answered = np.asarray(encoder.transform(assemble(asked, taken, size=len(texts))), dtype=np.float64)
        width = len(encoder.categories_[i]) - (0 if rare[i] is None else len(rare[i]) - 1)
        first = sum(part.width for part in found)
        codes = CategoryCodes({text: code for code, text in enumerate(texts)})
        found.append(CategoryBlock(feature.name, start + first, codes, answered[:, first : first + width]))
    return found


class LinearPredictor:
    """A linear model: each category's columns are multiplied beforehand."""

    route = "linear"

    def __init__(self, model: Any, prepared: list[DenseBlock], link: Link) -> None:
        weights = np.atleast_2d(np.asarray(model.coef_, dtype=np.float64))
        if weights.shape[1] != sum(part.width for part in prepared):
            raise NotCompilable("the model takes other columns than the preparation makes")
        self._link, self._intercept = link, np.atleast_1d(np.asarray(model.intercept_, dtype=np.float64))
        self._outputs = len(weights)
        self._numbers = [
            (p, weights[:, p.start : p.start + p.width].T) for p in prepared if isinstance(p, NumericBlock)
        ]
        self._categories = [
            (p.name, p.codes, p.table @ weights[:, p.start : p.start + p.width].T)
            for p in prepared
            if isinstance(p, CategoryBlock)
        ]

    def predict(self, columns: Mapping[str, Any], size: int) -> Floats:
        """What `predict_proba` (or `predict`) gives for *size* rows; binary: the second class alone, shape (n,)."""
        raw = np.tile(self._intercept, (size, 1))
        for numbers, weights in self._numbers:
            raw += numbers.values(columns) @ weights
        for name, codes, worth in self._categories:
            raw += worth[codes.codes(columns[name])]
        return self._link(raw)

    def edges(self) -> dict[str, Floats]:
        """A linear model never changes its mind."""
        return {}


_MANY = 256  # rows from which on scikit-learn's own walk is the faster one, its overhead shared; measured


class ForestPredictor:
    """Trees that look at float32 values: a few rows are walked by treelite, on one thread, many by scikit-learn."""

    route = "treelite"

    def __init__(self, model: Any, prepared: list[DenseBlock], link: Link | None) -> None:
        """*link* is None when the trees' mean is the answer. treelite's own softmax computes in float32."""
        import treelite.sklearn
        from treelite import TreeliteError

        self._link, self._model = link, model
        self._parts, self._width = prepared, sum(part.width for part in prepared)
        if self._width != model.n_features_in_:
            raise NotCompilable("the model takes other columns than the preparation makes")
        try:
            self._trees = treelite.sklearn.import_model(model)
        except (TreeliteError, RuntimeError, AssertionError) as error:
            raise NotCompilable(f"treelite: {error}") from error

    def predict(self, columns: Mapping[str, Any], size: int) -> Floats:
        """What `predict_proba` (or `predict`) gives for *size* rows; binary: the second class alone, shape (n,)."""
        from treelite import gtil

        matrix = np.empty((size, self._width), dtype=np.float32)
        with np.errstate(over="ignore"):
            for part in self._parts:
                matrix[:, part.start : part.start + part.width] = part.values(columns)
        if size > _MANY:
            return self._by_scikit_learn(matrix)
        exact = matrix.astype(np.float64)
        found: Floats = gtil.predict(self._trees, exact, nthread=1, pred_margin=self._link is not None)
        found = found.reshape(size, -1)
        if self._link is not None:
            return self._link(found)
        return found[:, -1] if found.shape[1] <= 2 else found

    def _by_scikit_learn(self, matrix: Any) -> Floats:
        if not hasattr(self._model, "classes_"):
            return np.asarray(self._model.predict(matrix), dtype=np.float64)
        shares = np.asarray(self._model.predict_proba(matrix), dtype=np.float64)
        return np.ascontiguousarray(shares[:, 1]) if shares.shape[1] == 2 else shares

    def edges(self) -> dict[str, Floats]:
        """Where its trees split is not looked up: rows as they come have to do."""
        return {}
