"""Types of fields in `params.yaml`: durations (7d), K of N (2 of 3), windows (all) and cron lines.

Each type parses its notation and serializes back to it. `trimtab.config.params` says what the fields mean."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BeforeValidator, PlainSerializer

_UNITS = {"h": "hours", "d": "days", "w": "weeks"}


def _duration(value: object) -> object:
    if isinstance(value, str) and (found := re.fullmatch(r"(\d{1,6})\s*([hdw])", value.strip())):
        return timedelta(**{_UNITS[found[2]]: int(found[1])})
    if isinstance(value, timedelta):
        return value
    raise ValueError("write a duration as a number and h, d or w, like 7d")


def _periods_or_duration(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return _duration(value)


def _window(value: object) -> object:
    if value == "all" or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise ValueError("write a number of periods, or all")


def format_duration(value: object) -> object:
    """A timedelta in the notation of `Duration`, in days or else in hours; any other value as it is.

    >>> format_duration(timedelta(days=7)), format_duration(timedelta(hours=36))
    ('7d', '36h')
    """
    if not isinstance(value, timedelta):
        return value
    hours = int(value.total_seconds() // 3600)
    return f"{hours // 24}d" if hours % 24 == 0 else f"{hours}h"


def _k_of_n(value: object) -> object:
    if isinstance(value, tuple):
        return value
    found = re.fullmatch(r"\s*(\d+)\s+of\s+(\d+)\s*", str(value))
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise ValueError("write how many of how many periods, like 2 of 3")
    return int(found[1]), int(found[2])


def _cron(value: object) -> object:
    if isinstance(value, str) and re.fullmatch(r"[\d*/,\-A-Za-z]+( +[\d*/,\-A-Za-z]+){4}", value.strip()):
        return value
    raise ValueError("write minute, hour, day, month and weekday, like 0 2 * * *")


Duration = Annotated[timedelta, BeforeValidator(_duration), PlainSerializer(format_duration)]
Holdout = Annotated[int | timedelta, BeforeValidator(_periods_or_duration), PlainSerializer(format_duration)]
Window = Annotated[int | Literal["all"], BeforeValidator(_window)]
KOfN = Annotated[tuple[int, int], BeforeValidator(_k_of_n), PlainSerializer(lambda pair: f"{pair[0]} of {pair[1]}")]
Cron = Annotated[str, BeforeValidator(_cron)]
