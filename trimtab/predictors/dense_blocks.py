"""The dense matrix that linear models and forests are fitted on, as blocks of columns: missing numbers filled and
scaled, categories one-hot encoded. Each block is read from scikit-learn's fitted steps once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from trimtab.data.arrays import Floats
from trimtab.data.features import Feature, assemble
from trimtab.predictors.preprocessing import CategoryCodes, Codes, NotCompilable, fitted_steps, is_identity, known_texts

if TYPE_CHECKING:
    from sklearn.compose import ColumnTransformer


@dataclass(frozen=True)
class NumericBlock:
    """Adjacent numeric columns of the matrix: missing values filled, then ``(x - mean) / scale``.

    *fill*, *mean* and *scale* have shape (width,). *start* is the first column's index in the matrix.
    """

    names: tuple[str, ...]
    start: int
    fill: Floats
    mean: Floats
    scale: Floats

    @property
    def width(self) -> int:
        """How many columns of the matrix the block fills."""
        return len(self.names)

    def values(self, columns: Mapping[str, Any]) -> Floats:
        """The block of *columns* with n rows: shape (n, width)."""
        block = np.array([columns[name] for name in self.names], dtype=np.float64)
        filled: Floats = np.where(np.isnan(block), self.fill[:, np.newaxis], block)
        return ((filled - self.mean[:, np.newaxis]) / self.scale[:, np.newaxis]).T

    def write(self, columns: Mapping[str, Any], matrix: Any) -> None:
        """Write the block of *columns* into its columns of *matrix*, shape (n, width of all blocks)."""
        matrix[:, self.start : self.start + self.width] = self.values(columns)


@dataclass(frozen=True)
class CategoryBlock:
    """One one-hot encoded category: *ones* has the block's column that is one for each code, or *width* for none.

    *start* is the block's first column in the matrix. *cells* and *values* have the matrix's column and the number that
    is written there for each code: its one, or a zero in the first column.
    """

    name: str
    start: int
    width: int
    codes: CategoryCodes
    ones: Codes
    cells: Codes
    values: Floats

    def products(self, weights: Floats) -> Floats:
        """For each code, the product of its row with the block's part of *weights*, shape (matrix width, outputs)."""
        own = weights[self.start : self.start + self.width]
        found: Floats = np.vstack([own, np.zeros((1, own.shape[1]))])[self.ones]
        return found

    def write(self, columns: Mapping[str, Any], matrix: Any) -> None:
        """Write the block of *columns* into its columns of *matrix*, zeros of shape (n, width of all blocks)."""
        codes = self.codes.encode(columns[self.name])
        matrix[np.arange(len(codes)), self.cells[codes]] = self.values[codes]


DenseBlock = NumericBlock | CategoryBlock


def dense_blocks(transformer: ColumnTransformer, features: Sequence[Feature]) -> list[DenseBlock]:
    """The blocks of the matrix that fitted imputing, scaling and one-hot encoding make of *features*.

    Raises NotCompilable for any other step.
    """
    found: list[DenseBlock] = []
    for step, taken, start in fitted_steps(transformer, features):
        kinds = {f.kind for f in taken}
        if type(step).__name__ == "OneHotEncoder" and kinds == {"category"}:
            found += _one_hot(step, taken, start)
        elif kinds == {"number"}:
            found.append(_numbers(step, taken, start))
        else:
            raise NotCompilable(f"a {type(step).__name__} on {' and '.join(sorted(kinds))} features is not supported")
    return found


def _numbers(step: Any, taken: list[Feature], start: int) -> NumericBlock:
    width = len(taken)
    fill, mean, scale = np.full(width, np.nan), np.zeros(width), np.ones(width)
    stages = [stage for _, stage in step.steps] if type(step).__name__ == "Pipeline" else [step]
    for i, stage in enumerate(stages):
        name = type(stage).__name__
        if name == "SimpleImputer" and i == 0 and not stage.add_indicator:
            gaps = {f.name: np.full(1, np.nan) for f in taken}
            fill = np.asarray(stage.transform(assemble(gaps, taken, size=1)), dtype=np.float64)[0]
        elif name == "StandardScaler" and i == len(stages) - 1:
            mean = mean if stage.mean_ is None else stage.mean_
            scale = scale if stage.scale_ is None else stage.scale_
        elif not is_identity(stage):
            raise NotCompilable(f"a {name} on numbers is not supported")
    if fill.shape != (width,):
        raise NotCompilable("the imputer drops or adds columns")
    return NumericBlock(tuple(f.name for f in taken), start, fill, mean, scale)


def _one_hot(encoder: Any, taken: list[Feature], start: int) -> list[CategoryBlock]:
    """Encode each category's known texts, with the other categories held fixed, and keep where the ones are."""
    from scipy.sparse import csr_array

    if encoder.drop is not None:
        raise NotCompilable("a one-hot encoder that drops a column is not supported")
    rare = getattr(encoder, "infrequent_categories_", [None] * len(taken))
    found: list[CategoryBlock] = []
    for i, feature in enumerate(taken):
        texts = known_texts(encoder, i)
        probe = {
            f.name: texts if f is feature else [known_texts(encoder, j)[0]] * len(texts) for j, f in enumerate(taken)
        }
        encoded = csr_array(encoder.transform(assemble(probe, taken, size=len(texts))))
        width = len(encoder.categories_[i]) - (0 if rare[i] is None else len(rare[i]) - 1)
        first = sum(part.width for part in found)
        own = encoded[:, first : first + width].tocoo()
        ones = np.full(len(texts), width, dtype=np.intp)
        ones[own.row] = own.col
        if not (own.data == 1).all() or len(set(own.row.tolist())) < own.nnz:
            raise NotCompilable(f"the encoding of {feature.name} is not one-hot")
        codes = CategoryCodes({text: code for code, text in enumerate(texts)})
        is_one = ones < width
        cells = start + first + np.where(is_one, ones, 0)
        found.append(CategoryBlock(feature.name, start + first, width, codes, ones, cells, is_one.astype(np.float64)))
    return found
