"""Periods of data time. Batches, models and reports are keyed by a period, so a repeated run changes nothing.

No function here reads the clock."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from dateutil.relativedelta import relativedelta

Every = Literal["hour", "day", "week", "month", "quarter", "year"]

_MONTHS = {"month": 1, "quarter": 3, "year": 12}
_LENGTH = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(days=7)}
_LETTERS = {"hour": 13, "day": 10, "week": 10, "month": 7, "year": 4}
_LABEL = {"hour": "%Y-%m-%dT%H", "day": "%Y-%m-%d", "week": "%Y-%m-%d", "month": "%Y-%m", "year": "%Y"}
_QUARTER = re.compile(r"(\d{4})-Q([1-4])")


class PeriodError(ValueError):
    """A text that is not the label of a period of this project."""


@dataclass(frozen=True, order=True)
class Period:
    """The data time `[start, end)` in UTC. Its text is its label; the label of a week is its Monday, that of a quarter
    is like 2013-Q1.

    >>> str(Period.parse("2013-03", "month").shift(1))
    '2013-04'
    """

    start: datetime
    every: Every

    @classmethod
    def parse(cls, text: str, every: Every) -> Period:
        """The period with the label *text*. Raises PeriodError."""
        try:
            start = _start(text.strip(), every)
        except ValueError:
            example = cls.containing(datetime(2013, 3, 4, tzinfo=UTC), every)
            raise PeriodError(f"{text!r} is not a {every}: write it like {example}") from None
        if every == "week" and start.weekday():
            monday = start - timedelta(days=start.weekday())
            raise PeriodError(f"{text!r} is not a Monday: that week is called {monday:%Y-%m-%d}")
        return cls(start, every)

    @classmethod
    def containing(cls, moment: datetime, every: Every) -> Period:
        """The period that contains *moment*, which is UTC when it has no time zone.

        >>> str(Period.containing(datetime(2013, 3, 7, 23), "week"))
        '2013-03-04'
        """
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        start = moment.replace(minute=0, second=0, microsecond=0)
        if every != "hour":
            start = start.replace(hour=0)
        if every == "week":
            start -= timedelta(days=start.weekday())
        if every in _MONTHS:
            start = start.replace(day=1, month=start.month - (start.month - 1) % _MONTHS[every])
        return cls(start, every)

    @property
    def end(self) -> datetime:
        """The first moment after the period."""
        return self.shift(1).start

    def shift(self, periods: int) -> Period:
        """The period *periods* later; earlier when negative."""
        if self.every in _MONTHS:
            return Period(self.start + relativedelta(months=periods * _MONTHS[self.every]), self.every)
        return Period(self.start + periods * _LENGTH[self.every], self.every)

    def distance(self, other: Period) -> int:
        """How many periods later *other*, of the same length, begins; negative when it is earlier.

        >>> Period.parse("2013-Q1", "quarter").distance(Period.parse("2014-Q3", "quarter"))
        6
        """
        if self.every in _MONTHS:
            months = 12 * (other.start.year - self.start.year) + other.start.month - self.start.month
            return months // _MONTHS[self.every]
        return (other.start - self.start) // _LENGTH[self.every]

    def __str__(self) -> str:
        text = self.start.isoformat()  # strftime does not pad the year 13 to four digits
        return f"{text[:4]}-Q{(self.start.month + 2) // 3}" if self.every == "quarter" else text[: _LETTERS[self.every]]


def _start(text: str, every: Every) -> datetime:
    """Raises ValueError."""
    if every != "quarter":
        return datetime.strptime(text, _LABEL[every]).replace(tzinfo=UTC)
    found = _QUARTER.fullmatch(text)
    if found is None:
        raise ValueError(text)
    return datetime(int(found[1]), 3 * int(found[2]) - 2, 1, tzinfo=UTC)


def span(first: Period, last: Period) -> Iterator[Period]:
    """Every period from *first* to *last*, both included; none when *last* is earlier.

    >>> [str(p) for p in span(Period.parse("2013-01", "month"), Period.parse("2013-03", "month"))]
    ['2013-01', '2013-02', '2013-03']
    """
    period = first
    while period <= last:
        yield period
        period = period.shift(1)
