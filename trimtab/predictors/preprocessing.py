"""What a fitted pipeline's first step does to a row's values, read off the fitted step itself: a category's texts
turn into small numbers (codes) by one look into a dictionary, and what the step makes of each code is known beforehand.
What a model does with it is the business of `trimtab.predictors.tree_tables`, `trimtab.linear` and
`trimtab.forests`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from trimtab.data.features import Feature, assemble

if TYPE_CHECKING:
    from sklearn.compose import ColumnTransformer

Codes = np.ndarray[Any, np.dtype[np.intp]]

UNSEEN = "\x00 a text that no row has"


class NotCompilable(Exception):
    """This model has no route but scikit-learn's; the text says why."""


class CategoryCodes(dict[str | None, int]):
    """From a category's text to its code; a text that training never saw has the code of UNSEEN."""

    def __missing__(self, text: str | None) -> int:
        return self[UNSEEN]

    def codes(self, texts: Sequence[str | None]) -> Codes:
        """The codes of *texts*, shape (n,)."""
        return np.fromiter(map(self.__getitem__, texts), dtype=np.intp, count=len(texts))


@dataclass(frozen=True)
class EncodedColumn:
    """One column of the matrix that a step makes: the feature it is made of, and for a category the step's number
    for each of its texts, None and UNSEEN among them (nan: like a missing one)."""

    feature: Feature
    values: Mapping[str | None, float] | None = None


def known_texts(encoder: Any, index: int) -> list[str | None]:
    """What a fitted encoder's feature number *index* can meet: every text of its training, None and UNSEEN."""
    known = [text for text in encoder.categories_[index].tolist() if isinstance(text, str)]
    return [*known, None, UNSEEN]


def fitted_steps(transformer: ColumnTransformer, features: Sequence[Feature]) -> list[tuple[Any, list[Feature], int]]:
    """The fitted transformers of a ColumnTransformer with the features they take and the place of their first column
    in its output. Raises NotCompilable when something else than our features flows through it."""
    by_name = {f.name: f for f in features}
    if type(transformer).__name__ != "ColumnTransformer":
        raise NotCompilable(f"the pipeline begins with a {type(transformer).__name__}, not a ColumnTransformer")
    found = []
    for name, step, names in transformer.transformers_:
        place = transformer.output_indices_[name]
        if isinstance(step, str) and (step == "drop" or place.start == place.stop):
            continue
        if not all(isinstance(n, str) and n in by_name for n in names):
            raise NotCompilable(f"{name} takes columns that are not the release's features")
        if place.start != place.stop:
            found.append((step, [by_name[n] for n in names], place.start))
    return sorted(found, key=lambda part: part[2])


def is_identity(step: Any) -> bool:
    """Whether a transformer leaves its columns as they are."""
    if isinstance(step, str):
        return step == "passthrough"
    return type(step).__name__ == "FunctionTransformer" and step.func is None


def ordinal_columns(transformer: ColumnTransformer, features: Sequence[Feature]) -> list[EncodedColumn]:
    """The columns that numbers taken as they are and an OrdinalEncoder make, in the order of the output.

    What the encoder does to each text (rare ones that share a number, gaps, texts it never saw) is asked of the
    encoder, not written a second time here."""
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
            raise NotCompilable(f"a {type(step).__name__} on {kinds} features is not known here")
    return columns
