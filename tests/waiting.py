"""Waiting for what other processes do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import httpx

Found = TypeVar("Found")


def eventually(
    look: Callable[[], Found | None],
    what: str,
    *,
    within_s: float = 30,
    every_s: float = 0.1,
    said: Callable[[], str] = str,
    lost: Callable[[], object] = bool,
) -> Found:
    """What *look* finds once that is true; servers that are away meanwhile are asked again. Fails with *what* did not
    come, the last trouble and what *said* tells (a log, say) after *within_s* seconds, or as soon as all is *lost*."""
    end = time.monotonic() + within_s
    trouble: Exception | None = None
    while time.monotonic() < end:
        is_lost = lost()
        try:
            if found := look():
                return found
            trouble = None
        except (OSError, httpx.HTTPError) as error:
            trouble = error
        if is_lost:
            raise AssertionError(f"{what} will not come any more ({trouble})\n{said()}")
        time.sleep(every_s)
    raise AssertionError(f"not within {within_s:g} s: {what} ({trouble})\n{said()}")
