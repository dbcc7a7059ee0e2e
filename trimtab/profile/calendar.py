"""When the rows of a table happened: how they divide into periods, and what that allows the loop to judge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import pandas as pd

from trimtab.data.periods import Every, Period

ENOUGH_ROWS = 1000  # in the median period: drift of a few per cent can be told from chance
MOST_PERIODS = 60  # where longer periods are possible, a history is not cut into more
FEWEST_PERIODS = 6  # two to learn from, and some to live through
LENGTHS: tuple[Every, ...] = get_args(Every)
_CODES: dict[Every, str] = {"hour": "h", "day": "D", "week": "W-SUN", "month": "M", "quarter": "Q", "year": "Y"}


@dataclass(frozen=True)
class CalendarProfile:
    """The periods of a table. *rows_per_period* is the median of the periods between the first and the last one."""

    every: Every
    first: Period
    last: Period
    rows_per_period: float
    rows_per_day: float
    periods: int
    reason: str

    @property
    def first_train(self) -> Period:
        """The last period of the first model: a third of all periods, at least two."""
        return self.first.shift(max(2, self.periods // 3) - 1)


def profile_calendar(times: pd.Series[Any], *, every: Every | None = None) -> CalendarProfile:
    """Divide *times* (UTC, without missing ones) into periods of *every*, or of the shortest length with enough rows.

    No period is shorter than the steps in which the times are written. Where no length has ENOUGH_ROWS, it is the
    longest that leaves FEWEST_PERIODS. Raises ValueError when *times* is empty.
    """
    if times.empty:
        raise ValueError("there is no row with a time")
    lengths = LENGTHS[LENGTHS.index(_resolution(times)) :]
    if every is not None and every not in lengths:
        raise ValueError(f"a period of one {every} is impossible: the times are written in steps of a {lengths[0]}")
    counted = {length: times.dt.to_period(_CODES[length]).value_counts().sort_index() for length in lengths}
    spans = {length: _span(times, length) for length in lengths}
    chosen = every or _choose(counted, spans)
    rows, first, last = counted[chosen], *_ends(times, chosen)
    inner = rows.iloc[1:-1] if len(rows) > 2 else rows
    days = max((times.max() - times.min()) / pd.Timedelta(days=1), 1.0)
    median = float(np.median(inner))
    why = "as asked" if every else f"{median:,.0f} rows in the median {chosen}, {spans[chosen]} periods"
    return CalendarProfile(chosen, first, last, median, len(times) / days, spans[chosen], why)


def _resolution(times: pd.Series[Any]) -> Every:
    """The step in which *times* are written: a year when all are of 1 January, a day when all are of midnight."""
    if bool((times != times.dt.floor("D")).any()):
        return "hour"
    if bool((times.dt.day != 1).any()) or times.nunique() < 3:
        return "day"
    return "month" if bool((times.dt.month != 1).any()) else "year"


def _choose(counted: dict[Every, pd.Series[Any]], spans: dict[Every, int]) -> Every:
    possible = [length for length in counted if spans[length] >= FEWEST_PERIODS]
    enough = [length for length in possible if np.median(counted[length]) >= ENOUGH_ROWS]
    followed = [length for length in enough if spans[length] <= MOST_PERIODS]
    return (followed or enough[-1:] or possible[-1:] or list(counted)[:1])[0]


def _ends(times: pd.Series[Any], every: Every) -> tuple[Period, Period]:
    first, last = times.min().to_pydatetime(), times.max().to_pydatetime()
    return Period.containing(first, every), Period.containing(last, every)


def _span(times: pd.Series[Any], every: Every) -> int:
    first, last = _ends(times, every)
    return first.distance(last) + 1


def design_effect(labels: pd.Series[Any], times: pd.Series[Any]) -> float:
    """How many times larger the variance of the mean of *labels* is than if the rows of a day were independent.

    Kish's 1 + (m - 1) rho, with m rows a day and rho the intraclass correlation of days, estimated by the one-way
    analysis of variance (Donner and Koval 1980). NaN with fewer than ten days.
    """
    days = labels.groupby(times.dt.floor("D").to_numpy())
    sizes = days.size()
    if len(sizes) < 10 or len(labels) <= len(sizes):
        return float("nan")
    total, number = len(labels), len(sizes)
    between = float((sizes * (days.mean() - labels.mean()) ** 2).sum() / (number - 1))
    within = float(((labels - days.transform("mean")) ** 2).sum() / (total - number))
    size = float((total - (sizes**2).sum() / total) / (number - 1))
    rho = (between - within) / (between + (size - 1) * within) if between + within > 0 else 0.0
    return max(1.0, 1 + (size - 1) * rho)
