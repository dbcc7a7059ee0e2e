"""Periods of data time. Batches, models and reports are keyed by a period, so a repeated run changes nothing.

No function here reads the clock."""

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
    """A text that is not the label of a period of this project."""


@dataclass(frozen=True, order=True)
class Period:
    """The data time `[start, end)` in UTC. Its text is its label; the label of a week is its Monday.

    >>> str(Period.parse("2013-03", "month").shift(1))
    '2013-04'
    """

    start: datetime
    every: Every

    @classmethod
    def parse(cls, text: str, every: Every) -> Period:
        """The period with the label *text*. Raises PeriodError."""
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
        if every == "month":
            start = start.replace(day=1)
        return cls(start, every)

    @property
    def end(self) -> datetime:
        """The first moment after the period."""
        end: datetime = self.start + _STEP[self.every]
        return end

    def shift(self, periods: int) -> Period:
        """The period *periods* later; earlier when negative."""
        return Period(self.start + periods * _STEP[self.every], self.every)

    def __str__(self) -> str:
        return self.start.isoformat()[: _LETTERS[self.every]]  # strftime does not pad the year 13 to four digits


def span(first: Period, last: Period) -> Iterator[Period]:
    """Every period from *first* to *last*, both included; none when *last* is earlier.

    >>> [str(p) for p in span(Period.parse("2013-01", "month"), Period.parse("2013-03", "month"))]
    ['2013-01', '2013-02', '2013-03']
    """
    period = first
    while period <= last:
        yield period
        period = period.shift(1)
