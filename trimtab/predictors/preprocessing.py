"""Read from a fitted ColumnTransformer what it does to each value.

A category's text becomes a small integer (its code) by one dictionary look-up, and the transformer's output for each
code is computed beforehand. The predictors beside this module use the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trimtab.data.features import Feature, assemble

if TYPE_CHECKING:
    from sklearn.compose import ColumnTransformer

Codes = np.ndarray[Any, np.dtype[np.intp]]

UNSEEN: Final = "\x00 a text that no row has"
"""Stands for every text that training never saw."""


class NotCompilable(Exception):
    """The model can only be executed by scikit-learn; the message says why."""


class CategoryCodes(dict[str | None, int]):
    """Maps a category's text to its code. A text that training never saw has the code of UNSEEN.

    >>> CategoryCodes({"JFK": 0, None: 1, UNSEEN: 2}).encode(["JFK", "LGA", None]).tolist()
    [0, 2, 1]
    """

    def __missing__(self, text: str | None) -> int:
        return self[UNSEEN]

    def encode(self, texts: Sequence[str | None]) -> Codes:
        """The codes of *texts*, shape (n,)."""
        return np.fromiter(map(self.__getitem__, texts), dtype=np.intp, count=len(texts))


@dataclass(frozen=True)
class EncodedColumn:
    """One column of a transformer's output and the feature it is made of. *values* is None for a number; for a category
    it has the encoded number of each text, of None and of UNSEEN, where nan means missing."""

    feature: Feature
    values: Mapping[str | None, float] | None = None


def known_texts(encoder: Any, index: int) -> list[str | None]:
    """The values that a fitted encoder distinguishes in column *index*: each text of its training, None and UNSEEN."""
    known = [text for text in encoder.categories_[index].tolist() if isinstance(text, str)]
    return [*known, None, UNSEEN]


def fitted_steps(transformer: ColumnTransformer, features: Sequence[Feature]) -> list[tuple[Any, list[Feature], int]]:
    """The fitted steps of a ColumnTransformer in the order of its output, each with the features that it takes and the
    index of its first output column. Raises NotCompilable when a step takes columns that are not in *features*."""
    by_name = {f.name: f for f in features}
    if type(transformer).__name__ != "ColumnTransformer":
        raise NotCompilable(f"the pipeline begins with a {type(transformer).__name__}, not a ColumnTransformer")
    found = []
    for name, step, names in transformer.transformers_:
        output = transformer.output_indices_[name]
        if isinstance(step, str) and (step == "drop" or output.start == output.stop):
            continue
        if not all(isinstance(n, str) and n in by_name for n in names):
            raise NotCompilable(f"{name} takes columns that are not the release's features")
        if output.start != output.stop:
            found.append((step, [by_name[n] for n in names], output.start))
    return sorted(found, key=lambda part: part[2])


def is_identity(step: Any) -> bool:
    """Whether a fitted step passes its columns through unchanged."""
    if isinstance(step, str):
        return step == "passthrough"
    return type(step).__name__ == "FunctionTransformer" and step.func is None


def ordinal_columns(transformer: ColumnTransformer, features: Sequence[Feature]) -> list[EncodedColumn]:
    """The output columns of passed-through numbers and an OrdinalEncoder, in their order.

    The encoder itself is called for each known text, so rare texts that share a number, missing values and unseen
    texts need no second implementation here. Raises NotCompilable for any other step.
    """
    columns: list[EncodedColumn] = []
    for step, taken, _ in fitted_steps(transformer, features):
        if is_identity(step) and all(f.kind == "number" for f in taken):
            columns += [EncodedColumn(f) for f in taken]
        elif type(step).__name__ == "OrdinalEncoder" and all(f.kind == "category" for f in taken):
            lists = {f.name: known_texts(step, i) for i, f in enumerate(taken)}
            longest = max(map(len, lists.values()))
            padded = {name: texts + texts[-1:] * (longest - len(texts)) for name, texts in lists.items()}
            encoded = np.asarray(step.transform(assemble(padded, taken, size=longest)), dtype=np.float64)
            for i, f in enumerate(taken):
                columns.append(EncodedColumn(f, dict(zip(padded[f.name], encoded[:, i].tolist(), strict=True))))
        else:
            kinds = " and ".join(sorted({f.kind for f in taken}))
            raise NotCompilable(f"a {type(step).__name__} on {kinds} features is not supported")
    return columns
