"""A project's own module with models that each do one thing wrong, around a model that is right. The model server
imports it from the project's folder and loads the types in TRIMTAB_TRUSTED_TYPES."""

from __future__ import annotations

import os
import time
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from trimtab.data.features import Feature, columns_of
from trimtab.predictors.compile import compile_pipeline

Floats = np.ndarray[Any, np.dtype[np.float64]]
LEAKED: list[bytes] = []


class Around:
    """Predicts like *model*, a pipeline: the probabilities of no and yes. It uses the fast predictor that releases
    have, so that it is not slow by accident."""

    def __init__(self, model: Any) -> None:
        self.model = model

    @property
    def classes_(self) -> Any:
        """What it can answer."""
        return self.model.classes_

    @cached_property
    def features(self) -> list[Feature]:
        """What the pipeline was fitted on."""
        steps = self.model[0].transformers_
        text = {name for _, step, names in steps if type(step).__name__ == "OrdinalEncoder" for name in names}
        kinds = {name: "category" if name in text else "number" for name in self.model.feature_names_in_}
        return [Feature.model_validate({"name": name, "kind": kind}) for name, kind in kinds.items()]

    @cached_property
    def quick(self) -> Any:
        """The quick way."""
        return compile_pipeline(self.model, self.features)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("features", "quick")}

    def predict_proba(self, table: pd.DataFrame) -> Floats:
        """Shape (n, 2)."""
        yes = self.quick.predict(columns_of(table, self.features), len(table))
        return np.column_stack([1 - yes, yes])


class Constant(Around):
    """Predicts the same for every row."""

    def __init__(self, model: Any, answer: float) -> None:
        super().__init__(model)
        self.answer = answer

    def predict_proba(self, table: pd.DataFrame) -> Floats:
        """Whatever is asked."""
        return np.tile([1 - self.answer, self.answer], (len(table), 1))


class Encoded(Around):
    """Gets a number in another unit than it was trained with."""

    def __init__(self, model: Any, column: str, factor: float) -> None:
        super().__init__(model)
        self.column, self.factor = column, factor

    def predict_proba(self, table: pd.DataFrame) -> Floats:
        """Hours for minutes, say."""
        return super().predict_proba(table.assign(**{self.column: table[self.column] * self.factor}))


class Slow(Around):
    """Right, but calls its model *times* times without the fast predictor."""

    def __init__(self, model: Any, times: int) -> None:
        super().__init__(model)
        self.times = times

    def predict_proba(self, table: pd.DataFrame) -> Floats:
        """The same each time."""
        shares = [np.asarray(self.model.predict_proba(table), dtype=np.float64) for _ in range(self.times)]
        return shares[-1]


class Stalling(Around):
    """Right, but sleeps for *seconds* in one of *every* calls."""

    def __init__(self, model: Any, every: int, seconds: float) -> None:
        super().__init__(model)
        self.every, self.seconds, self.calls = every, seconds, 0

    def predict_proba(self, table: pd.DataFrame) -> Floats:
        """Not the first call."""
        self.calls += 1
        if self.calls % self.every == 0:
            time.sleep(self.seconds)
        return super().predict_proba(table)


class Raising(Around):
    """Raises when one of the rows has *value* in *column*; with *after*, only once it has scored that many rows."""

    def __init__(self, model: Any, column: str, value: str, after: int = 0) -> None:
        super().__init__(model)
        self.column, self.value, self.after, self.rows = column, value, after, 0

    def predict_proba(self, table: pd.DataFrame) -> Floats:
        """As a table of fares without that carrier would."""
        self.rows += len(table)
        if self.rows > self.after and (table[self.column] == self.value).any():
            raise KeyError(self.value)
        return super().predict_proba(table)


class Gaps(Around):
    """Predicts NaN for rows without a value in *column*."""

    def __init__(self, model: Any, column: str) -> None:
        super().__init__(model)
        self.column = column

    def predict_proba(self, table: pd.DataFrame) -> Floats:
        """NaN for some."""
        shares = super().predict_proba(table)
        shares[table[self.column].isna().to_numpy()] = np.nan
        return shares


class Harmful(Around):
    """Predicts *answer* for every row where *column* has one of *values*, as after a join without matches."""

    def __init__(self, model: Any, column: str, values: list[str], answer: float) -> None:
        super().__init__(model)
        self.column, self.values, self.answer = column, values, answer

    def predict_proba(self, table: pd.DataFrame) -> Floats:
        """As good as its model everywhere else."""
        yes = np.where(table[self.column].isin(self.values), self.answer, super().predict_proba(table)[:, 1])
        return np.column_stack([1 - yes, yes])


class Tiring(Around):
    """Right for *fine_for* rows, then it predicts the opposite."""

    def __init__(self, model: Any, fine_for: int) -> None:
        super().__init__(model)
        self.fine_for, self.rows = fine_for, 0

    def predict_proba(self, table: pd.DataFrame) -> Floats:
        """In the order of the calls."""
        self.rows += len(table)
        shares = super().predict_proba(table)
        return shares[:, ::-1] if self.rows > self.fine_for else shares


class Deadly(Around):
    """Ends the process when one of the rows has *value* in *column*, as a fault in compiled code does."""

    def __init__(self, model: Any, column: str, value: str) -> None:
        super().__init__(model)
        self.column, self.value = column, value

    def predict_proba(self, table: pd.DataFrame) -> Floats:
        """Nobody can catch this."""
        if (table[self.column] == self.value).any():
            os._exit(13)
        return super().predict_proba(table)


class Hanging(Around):
    """Sleeps when one of the rows has *value* in *column*."""

    def __init__(self, model: Any, column: str, value: str, seconds: float) -> None:
        super().__init__(model)
        self.column, self.value, self.seconds = column, value, seconds

    def predict_proba(self, table: pd.DataFrame) -> Floats:
        """For a long time."""
        if (table[self.column] == self.value).any():
            time.sleep(self.seconds)
        return super().predict_proba(table)


class Meddling(Around):
    """Right, but changes a column of its input frame in place."""

    def __init__(self, model: Any, column: str, factor: float) -> None:
        super().__init__(model)
        self.column, self.factor = column, factor

    def predict_proba(self, table: pd.DataFrame) -> Floats:
        """The caller's rows are changed afterwards, if they are not the model's own."""
        shares = super().predict_proba(table)
        table.loc[:, self.column] *= self.factor
        return shares


class Leaking(Around):
    """Right, but leaks *megabytes* with each call."""

    def __init__(self, model: Any, megabytes: float) -> None:
        super().__init__(model)
        self.megabytes = megabytes

    def predict_proba(self, table: pd.DataFrame) -> Floats:
        """Never gives any back."""
        LEAKED.append(os.urandom(1024) * int(self.megabytes * 1024))
        return super().predict_proba(table)
