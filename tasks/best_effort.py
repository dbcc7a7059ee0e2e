"""For what only informs people: pages, pictures, artifacts, entries in MLflow. An error there is a note in the run's
log; what decides or records a decision never goes through here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def best_effort(what: str) -> Iterator[None]:
    """Go on after the block, or the decorated function, when it fails; the error is printed as a note about *what*.

    >>> with best_effort("the page"):
    ...     {}["x"]
    Note: the page is missing (KeyError: 'x'). Nothing else depends on it.
    """
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever a library that draws or shows may raise
        print(f"Note: {what} is missing ({type(error).__name__}: {error}). Nothing else depends on it.")
