"""Why the server does not answer although nothing is wrong inside it; `serving.http.errors` turns these into HTTP."""

from __future__ import annotations


class TooLarge(Exception):
    """More than one request may hold."""


class NoChampion(Exception):
    """No release is live."""


class Busy(Exception):
    """Too many requests are waiting, or too much memory is taken by those that are."""


class TooSlow(Exception):
    """The answer took longer than the limit."""

    def __init__(self, limit_s: float) -> None:
        super().__init__(f"no answer within {limit_s:g} s (TRIMTAB_ANSWER_S)")


class SlowBody(Exception):
    """The request's body did not arrive in time."""


class NotAllowed(Exception):
    """Another method than POST."""
