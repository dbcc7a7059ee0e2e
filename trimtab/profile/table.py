"""The whole table: which column plays which role, which columns are features, and which are left out and why."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pandas as pd

from trimtab.data.labels import spelled
from trimtab.data.periods import Every
from trimtab.profile.calendar import CalendarProfile, profile_calendar
from trimtab.profile.columns import ColumnProfile, profile_column
from trimtab.profile.leaks import find_filled_later, find_leaks
from trimtab.profile.row_times import RowTime, find_row_times
from trimtab.profile.targets import TargetProfile, profile_target

_KEY_WORDS = re.compile(r"customer|client|user|account|patient|member|device|vehicle|store|tail|driver", re.IGNORECASE)
_ID_WORDS = re.compile(r"(^|_)(id|uuid|guid|key|no|number|code)$|(?<=[a-z])(Id|ID)$")
FEWEST_KEYS = 50  # with fewer keys a share of 5 % is a handful of them


class TableError(ValueError):
    """The table cannot be used like this; the message says what to do."""


@dataclass(frozen=True)
class Guess:
    """One assumption: the *key* of params.yaml that changes it, its *value*, and the *reason*. *sure* is False where
    a person should be asked."""

    key: str
    value: str
    reason: str
    sure: bool = True


@dataclass(frozen=True)
class Asked:
    """What the caller has said already; None where the table decides."""

    target: str
    time: str | None = None
    id: str | None = None
    key: str | None = None
    every: Every | None = None


@dataclass(frozen=True)
class TableProfile:
    """A table with its roles. *numbers* and *categories* are the features; *left_out* gives a reason for each other
    column. *id* is None where rows have to be numbered."""

    columns: Mapping[str, ColumnProfile]
    target: TargetProfile
    target_name: str
    time: RowTime
    calendar: CalendarProfile
    id: str | None
    key: str | None
    numbers: tuple[str, ...]
    categories: tuple[str, ...]
    left_out: Mapping[str, str]
    label_delay: timedelta | None
    guesses: Sequence[Guess] = field(default=())


def profile_table(frame: pd.DataFrame, asked: Asked) -> TableProfile:
    """Look at *frame* and say what each column is for. Raises TableError or TargetError where that is impossible."""
    for role in ("target", "time", "id", "key"):
        name = getattr(asked, role)
        if name is not None and name not in frame:
            raise TableError(f"there is no column {name}: the table has {', '.join(map(str, frame.columns))}")
    columns = {str(name): profile_column(frame[name]) for name in frame.columns}
    guesses: list[Guess] = []
    target = profile_target(columns[asked.target], frame[asked.target])
    guesses.append(Guess("project.task", target.task, target.reason))

    time = _row_time(frame, columns, asked)
    others = f"; it could also be {', '.join(time.alternatives)}" if time.alternatives else ""
    guesses.append(Guess("columns.time", " + ".join(time.columns), f"{time.reason}{others}", sure=time.sure))
    times = time.parse(frame, columns)
    order = times.dropna().sort_values(kind="stable").index
    frame, times = frame.loc[order].reset_index(drop=True), times.loc[order].reset_index(drop=True)
    calendar = profile_calendar(times, every=asked.every)
    guesses.append(Guess("period.every", calendar.every, calendar.reason, sure=asked.every is not None))

    id_, id_guess = _id_column(columns, asked, {*time.columns, asked.target}, len(frame))
    guesses.append(id_guess)
    key, key_guess = _key_column(columns, asked, {*time.columns, asked.target, id_}, len(frame))
    guesses.append(key_guess)

    left_out = _unusable(columns, {*time.columns, asked.target, id_, key})
    left_out |= _later_times(frame, columns, times, {*time.columns, asked.target})
    delay = _label_delay(frame, columns, times, left_out)
    guesses.append(_delay_guess(delay))
    candidates = [n for n in columns if n not in {*time.columns, asked.target, id_, key} and n not in left_out]
    left_out |= _suspects(frame, columns, candidates, asked.target, target)
    features = [name for name in candidates if name not in left_out]
    numbers = tuple(name for name in features if columns[name].number is not None)
    categories = tuple(name for name in features if columns[name].number is None)
    if not features:
        raise TableError("no column is left to learn from: " + "; ".join(f"{n}: {why}" for n, why in left_out.items()))
    return TableProfile(
        columns, target, asked.target, time, calendar, id_, key, numbers, categories, left_out, delay, tuple(guesses)
    )


def _row_time(frame: pd.DataFrame, columns: Mapping[str, ColumnProfile], asked: Asked) -> RowTime:
    if asked.time is not None:
        if columns[asked.time].time is None:
            raise TableError(f"{asked.time} holds no times: {columns[asked.time].reason}")
        return RowTime((asked.time,), "as asked")
    found = find_row_times(frame, columns, target=asked.target)
    if found is None:
        raise TableError("no column says when a row happened: name one with --time")
    return found


def _id_column(
    columns: Mapping[str, ColumnProfile], asked: Asked, taken: set[str], size: int
) -> tuple[str | None, Guess]:
    if asked.id is not None:
        twice = size - columns[asked.id].levels
        if twice > 0:
            raise TableError(f"{asked.id} is not an id: {twice:,} of {size:,} rows share theirs or have none")
        return asked.id, Guess("columns.id", asked.id, "as asked")
    unique = [
        c
        for c in columns.values()
        if c.name not in taken and c.levels == size and c.content in ("identifier", "category")
    ]
    unique.sort(key=lambda column: not _ID_WORDS.search(column.name))
    if unique:
        return unique[0].name, Guess("columns.id", unique[0].name, unique[0].reason)
    return None, Guess("columns.id", "row_id", "no column has another value in every row: made from the row's content")


def _key_column(
    columns: Mapping[str, ColumnProfile], asked: Asked, taken: set[str | None], size: int
) -> tuple[str | None, Guess]:
    if asked.key is not None:
        few = columns[asked.key].levels < FEWEST_KEYS
        note = f"; only {columns[asked.key].levels} values: a share of 5 % may hold none" if few else ""
        return asked.key, Guess("columns.key", asked.key, f"as asked{note}")
    fitting = [
        c
        for c in columns.values()
        if c.name not in taken
        and (c.content in ("category", "identifier") or (c.content == "number" and c.reason.startswith("whole")))
        and FEWEST_KEYS <= c.levels < size
        and c.missing_share < 0.5
        and (_KEY_WORDS.search(c.name) or _ID_WORDS.search(c.name))
    ]
    fitting.sort(key=lambda column: (not _KEY_WORDS.search(column.name), column.levels))
    if fitting:
        best = fitting[0]
        return best.name, Guess(
            "columns.key", best.name, f"{best.levels:,} values that repeat, named like an entity", sure=False
        )
    return None, Guess(
        "columns.key", "none", "no column looks like a customer or a device: each request is assigned by itself"
    )


def _unusable(columns: Mapping[str, ColumnProfile], taken: set[str | None]) -> dict[str, str]:
    why = {}
    for column in columns.values():
        if column.name in taken:
            continue
        if column.content in ("empty", "constant", "identifier"):
            why[column.name] = column.reason
        elif column.content == "text":
            why[column.name] = f"free text is not a feature yet: {column.reason}"
        elif column.content == "category" and column.levels > 255:
            why[column.name] = (
                f"{column.levels:,} levels: more than a category can have; group them, or use it as the key"
            )
    return why


def _later_times(
    frame: pd.DataFrame, columns: Mapping[str, ColumnProfile], times: pd.Series[Any], taken: set[str]
) -> dict[str, str]:
    why = {}
    for column in columns.values():
        if column.content != "time" or column.name in taken or column.time is None:
            continue
        if column.time.notation == "year":
            why[column.name] = "a year; its distance from the row's time could be a feature"
            continue
        later = (column.clean(frame[column.name]) - times).dropna()
        median = pd.Timedelta(later.median()) if len(later) else pd.Timedelta(0)
        if median > pd.Timedelta(0):
            why[column.name] = f"a time after the row's own (by {_days(median)} in the median): not known then"
        else:
            why[column.name] = "a time; an age or a weekday made of it could be a feature"
    return why


def _label_delay(
    frame: pd.DataFrame, columns: Mapping[str, ColumnProfile], times: pd.Series[Any], left_out: Mapping[str, str]
) -> timedelta | None:
    """The 95 % quantile of how much later a second time of a row is, in whole days; None without one."""
    for name, why in left_out.items():
        if columns[name].content == "time" and why.startswith("a time after"):
            later = (columns[name].clean(frame[name]) - times).dropna()
            late: Any = later.quantile(0.95)
            return timedelta(days=max(1, -(-int(late.total_seconds()) // 86400)))
    return None


def _delay_guess(delay: timedelta | None) -> Guess:
    if delay is None:
        return Guess("period.label_delay", "1d", "no second time says when a label is known", sure=False)
    return Guess("period.label_delay", f"{delay.days}d", "95 % of the rows have their later time by then", sure=False)


def _suspects(
    frame: pd.DataFrame,
    columns: Mapping[str, ColumnProfile],
    candidates: Sequence[str],
    target_name: str,
    target: TargetProfile,
) -> dict[str, str]:
    labels = columns[target_name].clean(frame[target_name])
    known = labels.notna()
    labels = labels[known].reset_index(drop=True)
    if target.task == "binary":
        labels = (labels.map(spelled) == target.is_positive).astype(float)
    elif target.task == "multiclass":
        labels = labels.astype("str")
    features = pd.DataFrame({name: columns[name].clean(frame[name]) for name in candidates})
    suspects = find_leaks(features[known.to_numpy()].reset_index(drop=True), labels, target.task)
    suspects += find_filled_later(features)
    return {suspect.column: f"may give the target away: {suspect.evidence}" for suspect in reversed(suspects)}


def _days(span: Any) -> str:
    hours = span.total_seconds() / 3600
    return f"{hours:.0f} h" if hours < 48 else f"{hours / 24:.0f} days"
