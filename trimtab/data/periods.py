"""Slices of data time. Everything in Trimtab is keyed by a period, so that doing a thing twice
changes nothing. No clock is read here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from dateutil.relativedelta import relativedelta

Every = Literal["hour", "day", "week", "month"]

_STEP = {
    "hour": relativedelta(hours=1),
    "day": relativedelta(days=1),
    "week": relativedelta(weeks=1),
    "month": relativedelta(months=1),
}
_LETTERS = {"hour": 13, "day": 10, "week": 10, "month": 7}
_LABEL = {"hour": "%Y-%m-%dT%H", "day": "%Y-%m-%d", "week": "%Y-%m-%d", "month": "%Y-%m"}


class PeriodError(ValueError):
    """A text that names no period of this project."""


@dataclass(frozen=True, order=True)
class Period:
    """The data time `[start, end)` in UTC, written as its label: `2013-03` for a month.

    A week is named by its Monday.
    """

    start: datetime
    every: Every

    @classmethod
    def parse(cls, text: str, every: Every) -> Period:
        """The period called *text*. Raises PeriodError when it does not name one."""
        try:
            start = datetime.strptime(text.strip(), _LABEL[every]).replace(tzinfo=UTC)
        except ValueError:
            example = datetime(2013, 3, 4, tzinfo=UTC).strftime(_LABEL[every])
            raise PeriodError(f"{text!r} is not a {every}: write it like {example}") from None
        if every == "week" and start.weekday():
            monday = start - timedelta(days=start.weekday())
            raise PeriodError(f"{text!r} is not a Monday: that week is called {monday:%Y-%m-%d}")
        return cls(start, every)

    @classmethod
    def containing(cls, moment: datetime, every: Every) -> Period:
        """The period in which *moment* (UTC when it has no zone) lies."""
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        start = moment.replace(minute=0, second=0, microsecond=0)
        if every != "hour":
            start = start.replace(hour=0)
        if every == "week":
            start -= timedelta(days=start.weekday())
        if every == "month":
            start = start.replace(day=1)
        return cls(start, every)

    @property
    def end(self) -> datetime:
        """The first moment after the period."""
        end: datetime = self.start + _STEP[self.every]
        return end

    def shift(self, periods: int) -> Period:
        """The period that many places later; earlier when negative."""
        return Period(self.start + periods * _STEP[self.every], self.every)

    def __str__(self) -> str:
        return self.start.isoformat()[: _LETTERS[self.every]]  # strftime writes the year 13 with two digits


def span(first: Period, last: Period) -> Iterator[Period]:
    """Every period from *first* to *last*, both included; none when *last* is earlier."""
    period = first
    while period <= last:
        yield period
        period = period.shift(1)
