"""Which errors say by themselves what is wrong and what to do, so that a traceback would only hide it."""

from __future__ import annotations

OURS = ("trimtab", "stores", "tasks", "flows", "deployments", "serving")


def explained(error: BaseException) -> bool:
    """Whether *error* is one of Trimtab's own, or bad input that pydantic has put into words."""
    from pydantic import ValidationError

    room = type(error).__module__.split(".")[0]
    return room in OURS or isinstance(error, ValidationError)
