"""What a label means for a task. Training, the model server, verdicts and monitoring read labels here, so that `yes`,
`True`, `1` and `1.0` are one label everywhere, and a value that is no label of the task is none anywhere."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from trimtab.data.types import Task

if TYPE_CHECKING:
    import pandas as pd

MAX_CHARACTERS = 256
_WHOLE = re.compile(r"[+-]?(?:0|[1-9]\d*)\.0*")  # 1.0 is 1, and 01 or 01.0 is a code
_POSITIVE = frozenset({"1", "true", "yes", "y", "t"})
_NEGATIVE = frozenset({"0", "false", "no", "n", "f"})


class NoLabel(ValueError):
    """A value that is no label of the task; the message says what one looks like."""


class LabelRule(BaseModel):
    """The labels of a *task*.

    A binary one has *negative* and *positive* as the project spells them; without them 0 and 1, false and true, no and
    yes are understood. *classes* are the texts of a multiclass task; without any, every text is one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: Task
    negative: str | None = None
    positive: str | None = None
    classes: tuple[str, ...] = ()

    def stored(self) -> LabelRule:
        """The rule for labels that were read once and stored: a binary one is 0 or 1, however the project spells it."""
        return LabelRule(task=self.task, classes=self.classes)

    def read(self, value: object) -> int | float | str | None:
        """0 or 1 for binary, a finite float for regression, a text for multiclass; None for a missing value.

        Raises NoLabel.

        >>> LabelRule(task="binary").read("Yes"), LabelRule(task="multiclass").read(3.0)
        (1, '3')
        """
        if _is_missing(value):
            return None
        if isinstance(value, str) and len(value) > MAX_CHARACTERS:
            raise NoLabel(f"must have at most {MAX_CHARACTERS} characters")
        match self.task:
            case "binary":
                return self._binary(value)
            case "regression":
                return _number(value)
            case "multiclass":
                return self._class(value)

    def _binary(self, value: object) -> int:
        text = spelled(value)
        if self.positive is not None and self.negative is not None:
            names = (spelled(self.negative), spelled(self.positive))
            if text in names:
                return int(text == names[1])
            if {"0", "1"} & set(names):  # then 0 and 1 mean what the project says, and nothing else
                raise NoLabel(f"must be {self.negative} or {self.positive}")
        if text.lower() in _POSITIVE or text.lower() in _NEGATIVE:
            return int(text.lower() in _POSITIVE)
        named = self.positive is not None
        raise NoLabel(
            f"must be {self.negative} or {self.positive}" if named else "must be 0 or 1, false or true, no or yes"
        )

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.classes)

    def _class(self, value: object) -> str:
        text = spelled(value)
        if self.classes and text not in self._known:
            shown = ", ".join(self.classes[:10]) + (" …" if len(self.classes) > 10 else "")
            raise NoLabel(f"must be one of {shown}")
        return text


def spelled(value: object) -> str:
    """The one spelling of a class: a whole number without a point, true and false in lower case, text without spaces
    around it.

    >>> spelled(3.0), spelled("3.0"), spelled(True), spelled(" late ")
    ('3', '3', 'true', 'late')
    """
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, str):
        text = value.strip()
        return str(int(text.partition(".")[0])) if _WHOLE.fullmatch(text) else text
    if not isinstance(value, int | float | np.integer | np.floating | Decimal):
        raise NoLabel("must be a number, a text, true or false")
    if isinstance(value, float | np.floating | Decimal) and not math.isfinite(value):
        return str(value)
    return str(int(value)) if value == int(value) else str(float(value))


def read_labels(values: pd.Series[Any], rule: LabelRule) -> pd.Series[Any]:
    """*values* as *rule* reads them, missing where a value is no label; float64, or object for multiclass."""
    import pandas as pd

    if rule.task != "multiclass" and rule.positive is None and pd.api.types.is_numeric_dtype(values.dtype):
        numbers = values.astype("float64")
        return numbers.where(numbers.isin([0, 1]) if rule.task == "binary" else np.isfinite(numbers))
    known: dict[tuple[str, object], object] = {}
    read = []
    for value in values.tolist():
        key = (type(value).__name__, value if isinstance(value, str | int | float) else str(value))
        if key not in known:
            known[key] = _read_or_none(value, rule)
        read.append(known[key])
    kind = "object" if rule.task == "multiclass" else "float64"
    return pd.Series(read, index=values.index, dtype=kind, name=values.name)


def only_readable(labels: pd.DataFrame, rule: LabelRule) -> tuple[pd.DataFrame, int]:
    """*labels*, a frame with a column `label`, without the rows whose label cannot be read; and how many these were."""
    if labels.empty:
        return labels, 0
    read = read_labels(labels["label"], rule)
    kept = read.notna()
    found = labels.assign(label=read)[kept].reset_index(drop=True)
    return found, int((~kept & labels["label"].notna()).sum())


def rule_of(task: Task, classes: Sequence[object] = (), *, spellings: Sequence[str] | None = None) -> LabelRule:
    """The rule of a release with *classes*; *spellings* are the project's negative and positive one, if it has any."""
    if task == "binary" and spellings:
        return LabelRule(task=task, negative=spellings[0], positive=spellings[1])
    return LabelRule(task=task, classes=tuple(dict.fromkeys(map(spelled, classes))) if task == "multiclass" else ())


def _number(value: object) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise NoLabel("must be a number") from None
    if not math.isfinite(number):
        raise NoLabel("must be a finite number")
    return number


def _is_missing(value: object) -> bool:
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float | np.floating | Decimal) and bool(value != value)


def _read_or_none(value: object, rule: LabelRule) -> object:
    try:
        return rule.read(value)
    except (NoLabel, TypeError, ValueError, OverflowError):
        return None
