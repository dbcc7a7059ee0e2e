"""Boosted trees (scikit-learn's HistGradientBoosting) as look-up tables, for one row or many.

The algorithm is QuickScorer: Lucchese et al., "QuickScorer: a fast algorithm to rank documents with additive ensembles
of regression trees", SIGIR 2015. Each leaf of a tree is a bit of a word. A split that sends a row to the right clears
the bits of the leaves on its left, so the leaf that a row reaches is the lowest bit that no split cleared.

QuickScorer walks a feature's sorted thresholds for each row. Here the words of all trees are computed beforehand for
every state of a feature: each interval between two thresholds (at most 255, as these trees learn from binned values),
each category, and missing. A row then costs one look-up per feature, an AND over the words found, and one leaf per
tree."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from trimtab.data.arrays import Floats
from trimtab.predictors.link_functions import Link
from trimtab.predictors.preprocessing import CategoryCodes, Codes, EncodedColumn, NotCompilable

Words = Any  # an array of unsigned integers

MAX_LEAVES = 64
MAX_TABLE_BYTES = 64_000_000
_SMALL_BYTES, _BLOCK_BYTES = 500_000, 200_000  # what fits a core's own cache beside the tables; measured


class TreeTables:
    """Predicts with boosted trees. Raises NotCompilable for trees of more than MAX_LEAVES leaves, and when the tables
    would exceed MAX_TABLE_BYTES."""

    backend = "tables"

    def __init__(self, model: Any, columns: list[EncodedColumn], link: Link) -> None:
        self._link = link
        columns = _as_encoded_for_trees(model, columns)
        trees = [tree for stage in model._predictors for tree in stage]
        self._outputs = int(model.n_trees_per_iteration_)
        self._baseline = np.asarray(model._baseline_prediction, dtype=np.float64).ravel()
        most = max(int(tree.nodes["is_leaf"].sum()) for tree in trees)
        if most > MAX_LEAVES:
            raise NotCompilable(f"a tree has {most} leaves; tables go up to {MAX_LEAVES}")
        self._word = np.dtype(np.uint32 if most <= 32 else np.uint64)
        self._build(model, trees, columns)

    def predict(self, columns: Mapping[str, Any], size: int) -> Floats:
        """Predictions for *size* rows, as `Predictor.predict` describes them."""
        return self._link(self.raw(columns, size))

    def raw(self, columns: Mapping[str, Any], size: int) -> Floats:
        """The baseline and the sum of the leaves, before the link: shape (size, outputs)."""
        if not self._states:
            alone: Floats = self._leaves[self._first].reshape(-1, self._outputs).sum(axis=0) + self._baseline
            return np.tile(alone, (size, 1))
        states = np.empty((len(self._states), size), dtype=np.intp)
        for row, (name, states_of) in enumerate(self._states):
            states[row] = states_of(columns[name])
        states += self._starts
        width = self._table.shape[1] * self._table.itemsize
        if states.size * width <= _SMALL_BYTES:
            return self._sum(np.bitwise_and.reduce(self._table[states], axis=0))
        block = max(16, _BLOCK_BYTES // width)
        found = np.empty((size, self._outputs))
        for start in range(0, size, block):
            found[start : start + block] = self._sum(self._words(states[:, start : start + block]))
        return found

    def split_points(self) -> dict[str, Floats]:
        """For each numeric feature, the thresholds of all trees, ascending."""
        return self._split_points

    def _words(self, states: Codes) -> Words:
        words = self._table.take(states[0], axis=0, mode="clip")
        more = np.empty_like(words)
        for row in states[1:]:
            self._table.take(row, axis=0, out=more, mode="clip")
            np.bitwise_and(words, more, out=words)
        return words

    def _sum(self, words: Words) -> Floats:
        """Sum the leaves of *words*, shape (n, trees), to shape (n, outputs).

        The index of a word's lowest bit is read from the exponent of that bit's value as a float32.
        """
        lowest = np.bitwise_and(words, np.negative(words)).astype(np.float32).view(np.int32)
        reached = self._leaves.take((lowest >> 23) + self._first_less_bias)
        sums: Floats = reached.reshape(len(words), -1, self._outputs).sum(axis=1)
        return sums + self._baseline

    def _build(self, model: Any, trees: list[Any], columns: list[EncodedColumn]) -> None:
        splits = np.concatenate([tree.nodes for tree in trees])
        splits = splits[splits["is_leaf"] == 0]
        sides: dict[int, _Sides] = {}
        for j in np.unique(splits["feature_idx"]).tolist():
            own = splits[splits["feature_idx"] == j]
            kind = _Bitsets if own["is_categorical"].any() else _Intervals
            sides[j] = kind(own, columns[j], model, j)
        if sum(s.states for s in sides.values()) * len(trees) * self._word.itemsize > MAX_TABLE_BYTES:
            raise NotCompilable(f"the tables of {len(trees)} trees would be larger than {MAX_TABLE_BYTES:,} bytes")
        bits = 8 * self._word.itemsize
        full = (1 << bits) - 1
        tables: dict[int, Words] = {
            j: np.full((s.states, len(trees)), full, dtype=self._word) for j, s in sides.items()
        }  # fmt: skip
        self._leaves = np.zeros(len(trees) * bits)
        for t, tree in enumerate(trees):
            for split, lost in _splits(tree.nodes, self._leaves[t * bits : (t + 1) * bits]):
                j = int(split["feature_idx"])
                tables[j][sides[j].right(split, tree), t] &= self._word.type(full ^ lost)
        self._first = np.arange(len(trees)) * bits
        self._first_less_bias = self._first - 127
        self._states = [(columns[j].feature.name, side.states_of) for j, side in sides.items()]
        self._starts = np.cumsum([0, *(side.states for side in sides.values())])[:-1, np.newaxis]
        self._split_points = {
            columns[j].feature.name: side.thresholds[:-1]
            for j, side in sides.items()
            if isinstance(side, _Intervals) and columns[j].values is None
        }
        self._table: Words = np.concatenate([*tables.values(), np.empty((0, len(trees)), dtype=self._word)])


class _Intervals:
    """The states of a numeric column: the intervals between the thresholds of all trees, and missing as the last.
    A category that the trees treat as a number has the states of its encoded numbers."""

    def __init__(self, splits: Any, column: EncodedColumn, model: Any, j: int) -> None:
        thresholds: Floats = np.unique(np.append(splits["num_threshold"], np.inf))
        self.thresholds, self.states = thresholds, len(thresholds) + 1
        self.states_of: Callable[[Any], Any] = thresholds.searchsorted
        if column.values is not None:
            self.states_of = CategoryCodes(
                {t: int(thresholds.searchsorted(v)) for t, v in column.values.items()}
            ).encode

    def right(self, split: Any, tree: Any) -> Any:
        """The states that *split* sends to the right, as a mask of shape (states,)."""
        goes = np.arange(self.states) > self.thresholds.searchsorted(split["num_threshold"])
        goes[-1] = not split["missing_go_to_left"]
        return goes


class _Bitsets:
    """The states of a categorical column: the 256 codes that the trees can hold, and missing as the last."""

    states = 257

    def __init__(self, splits: Any, column: EncodedColumn, model: Any, j: int) -> None:
        if column.values is None:
            raise NotCompilable("a number is used as a category")
        codes = CategoryCodes({text: 256 if np.isnan(v) else int(v) for text, v in column.values.items()})
        if not all(0 <= code <= 256 for code in codes.values()):
            raise NotCompilable("a category has a number that the trees cannot hold")
        self.states_of: Callable[[Any], Any] = codes.encode
        known, index = model._bin_mapper.make_known_categories_bitsets()
        self._known = _bits(known[index[j]])

    def right(self, split: Any, tree: Any) -> Any:
        """The states that *split* sends to the right, as a mask of shape (257,). A code that training never saw goes
        where missing goes."""
        missing = not split["missing_go_to_left"]
        left = _bits(tree.raw_left_cat_bitsets[split["bitset_idx"]])
        return np.append(~left & (self._known | missing), missing)


_Sides = _Intervals | _Bitsets


def _bits(words: Any) -> Any:
    """Eight 32-bit words as a mask of shape (256,)."""
    return np.unpackbits(np.ascontiguousarray(words).view(np.uint8), bitorder="little").astype(bool)


def _as_encoded_for_trees(model: Any, columns: list[EncodedColumn]) -> list[EncodedColumn]:
    """The columns in the order and encoding that the trees use: the estimator moves categories to the front and encodes
    them once more."""
    if len(columns) != model.n_features_in_:
        raise NotCompilable(f"the trees take {model.n_features_in_} columns, not {len(columns)}")
    if model._preprocessor is None:
        return columns
    categories = [column for column, is_category in zip(columns, model.is_categorical_, strict=True) if is_category]
    numbers = [column for column, is_category in zip(columns, model.is_categorical_, strict=True) if not is_category]
    if any(column.values is None for column in categories):
        raise NotCompilable("a number is used as a category")
    longest = max(len(column.values or {}) for column in categories)
    probe = np.zeros((longest, len(columns)))
    for i, column in zip(np.flatnonzero(model.is_categorical_), categories, strict=True):
        probe[: len(column.values or {}), i] = list((column.values or {}).values())
    encoded = model._preprocess_X(probe, reset=False)
    again = [
        EncodedColumn(column.feature, dict(zip(column.values or {}, encoded[:, i].tolist(), strict=False)))
        for i, column in enumerate(categories)
    ]
    return [*again, *numbers]


def _splits(nodes: Any, leaves: Floats) -> list[tuple[Any, int]]:
    """Each split of a tree with the bits of the leaves on its left. Fills *leaves* from left to right."""
    left, right, is_leaf, values = (nodes[name].tolist() for name in ("left", "right", "is_leaf", "value"))
    found: list[tuple[Any, int]] = []
    count = 0

    def walk(node: int) -> None:
        nonlocal count
        if is_leaf[node]:
            leaves[count] = values[node]
            count += 1
            return
        first = count
        walk(left[node])
        found.append((nodes[node], (1 << count) - (1 << first)))
        walk(right[node])

    walk(0)
    return found
