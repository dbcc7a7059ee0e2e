"""Prediction ids. An id carries its row's data time, so that a label, which comes with nothing but the id, can be
stored and found by time without looking anything up."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

ID_LENGTH = 32
_RANDOM_BYTES = 11
_RANDOM_DIGITS = 2 * _RANDOM_BYTES
_EPOCH_S = 62_135_596_800  # seconds from year 1 to 1970: keeps every time that Python knows positive
_SHAPE = re.compile(rf"[0-9a-f]{{{ID_LENGTH}}}")
_MANY = 32  # from here on an array of bytes is quicker than a format for each


def new_ids(times_us: Sequence[int] | Any) -> list[str]:
    """One id per data time; *times_us*, in UTC microseconds, may be an array.

    An id is 10 hex digits of the data time in seconds and 22 random ones, from the operating system. So ids are unique
    over processes, machines and restarts (with a billion rows of one second, two are equal with a chance of 2e-9), and
    a client that knows some ids cannot guess another.
    """
    size = len(times_us)
    if size >= _MANY:
        return _format_many(times_us)
    times = times_us.tolist() if hasattr(times_us, "tolist") else times_us
    random, at, starts, ids = os.urandom(_RANDOM_BYTES * size).hex(), 0, dict[int, str](), list[str]()
    for us in times:
        second = us // 1_000_000
        if second not in starts:
            starts[second] = f"{second + _EPOCH_S:010x}"
        ids.append(starts[second] + random[at : at + _RANDOM_DIGITS])
        at += _RANDOM_DIGITS
    return ids


def _format_many(times_us: Any) -> list[str]:
    import numpy as np

    size = len(times_us)
    seconds = np.asarray(times_us, dtype=np.int64) // 1_000_000 + _EPOCH_S
    cells = np.empty((size, ID_LENGTH // 2), np.uint8)
    cells[:, :5] = seconds.astype(">i8").view(np.uint8).reshape(size, 8)[:, 3:]
    cells[:, 5:] = np.frombuffer(os.urandom(_RANDOM_BYTES * size), np.uint8).reshape(size, _RANDOM_BYTES)
    digits = cells.tobytes().hex()
    return [digits[at : at + ID_LENGTH] for at in range(0, len(digits), ID_LENGTH)]


def is_prediction_id(text: object) -> bool:
    """Whether *text* can be an id that `new_ids` made."""
    return isinstance(text, str) and _SHAPE.fullmatch(text) is not None


def data_time_us(prediction_id: str) -> int:
    """The data time in an id, in UTC microseconds, cut to the second."""
    return (int(prediction_id[:10], 16) - _EPOCH_S) * 1_000_000


def first_id(time_us: int) -> str:
    """What every id of the second that *time_us* is in, or later, compares greater than or equal to, as text."""
    seconds = time_us // 1_000_000 + _EPOCH_S
    return f"{min(max(seconds, 0), 0xFFFFFFFFFF):010x}"
