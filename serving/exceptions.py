"""Reasons why a request is not answered that are not failures of the server. `serving.http.errors` maps each of them to
an HTTP response."""

from __future__ import annotations


class TooLarge(Exception):
    """The request has more rows or bytes than the settings allow."""


class NoLiveRelease(Exception):
    """No release is live, so there is no model that could answer."""


class Overloaded(Exception):
    """Too many requests are waiting, or they take too much memory."""


class PredictTimeout(Exception):
    """The answer took longer than *limit_s* seconds."""

    def __init__(self, limit_s: float) -> None:
        super().__init__(f"no answer within {limit_s:g} s (TRIMTAB_ANSWER_S)")


class BodyTimeout(Exception):
    """The request's body did not arrive in time."""


class MethodNotAllowed(Exception):
    """The request's method is not POST."""
