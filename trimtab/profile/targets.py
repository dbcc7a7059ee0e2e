"""What kind of label a target column is, and which of two values is the positive one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from trimtab.data.labels import LabelRule, NoLabel, spelled
from trimtab.data.types import Task
from trimtab.profile.columns import ColumnProfile

_POSITIVE = ("1", "yes", "true", "y", "t", "on", "positive", "churned", "late", "fraud", "default", "bad", "fail")
MOST_CLASSES = 50
FEWEST_NUMBERS = 20  # whole numbers with fewer levels are classes


class TargetError(ValueError):
    """The column cannot be a target; the message says why."""


@dataclass(frozen=True)
class TargetProfile:
    """The task of a target. *negative* and *positive* are its two labels when it is binary and they are others than 0
    and 1, no and yes, or false and true; *is_positive* is the text of the positive one in any case."""

    task: Task
    reason: str
    negative: str | None = None
    positive: str | None = None
    is_positive: str | None = None


def profile_target(column: ColumnProfile, values: pd.Series[Any]) -> TargetProfile:
    """The task that *values*, with its *column* profile, pose. Raises TargetError."""
    present = column.clean(values).dropna()
    if column.content in ("empty", "constant"):
        raise TargetError(f"{column.name} cannot be the target: {column.reason}")
    if column.content == "time":
        raise TargetError(f"{column.name} cannot be the target: it holds times; derive a duration from it")
    counts = present.value_counts()
    if len(counts) == 2:
        positive = _positive(counts)
        negative = next(value for value in counts.index if value != positive)
        rate, shown = float(counts[positive] / counts.sum()), spelled(positive)
        reason = f"two values; {shown} is the positive one ({rate:.1%})"
        try:
            is_usual = LabelRule(task="binary").read(positive) == 1 and LabelRule(task="binary").read(negative) == 0
        except NoLabel:
            is_usual = False
        named = {} if is_usual else {"negative": spelled(negative), "positive": shown}
        return TargetProfile("binary", reason, is_positive=shown, **named)
    numeric = column.content in ("number", "identifier") and pd.api.types.is_numeric_dtype(present.dtype)
    if numeric and (len(counts) > FEWEST_NUMBERS or bool((present % 1 != 0).any())):
        return TargetProfile("regression", f"{len(counts):,} different numbers")
    if len(counts) > MOST_CLASSES:
        raise TargetError(
            f"{column.name} cannot be the target: {len(counts):,} different texts are too many classes "
            f"(at most {MOST_CLASSES}); group them, or choose another column"
        )
    return TargetProfile("multiclass", f"{len(counts)} classes: {', '.join(map(spelled, counts.index[:5]))}")


def _positive(counts: pd.Series[Any]) -> Any:
    by_text = {spelled(value).lower(): value for value in counts.index}
    for word in _POSITIVE:
        if word in by_text:
            return by_text[word]
    if pd.api.types.is_numeric_dtype(counts.index.dtype):
        return counts.index.max()
    return counts.idxmin()  # the rarer text is what one looks for
