"""Detect passwords and tokens in addresses that are written into a shared file. The rules are heuristics that prefer a
false alarm to a missed secret."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlsplit

_SECRET_NAME = re.compile(r"pass|pwd|token|key|secret|sig|auth|code", re.IGNORECASE)
_LONG, _LONG_IF_MIXED = 20, 12


def find_secret(address: str) -> str | None:
    """The part of *address* that looks secret, in words for an error message; None when nothing does.

    >>> find_secret("https://user:pw@example.org/hook")
    'a user or a password before the host'
    >>> find_secret("https://example.org/hooks/flights") is None
    True
    """
    try:
        parts = urlsplit(address)
        if parts.password or (parts.username and "@" not in parts.username):
            return "a user or a password before the host"
    except ValueError:
        return "something that is not an address"
    if any(_looks_random(segment) for segment in parts.path.split("/")):
        return "what looks like a token in its path"
    for name, value in parse_qsl(parts.query):
        if _SECRET_NAME.search(name) or ("@" not in value and _looks_random(value)):
            return f"what looks like a secret in its query ({name})"
    return None


def _looks_random(word: str) -> bool:
    """Whether *word* looks random: longer than words are, or letters mixed with digits."""
    mixed = re.search(r"\d", word) and re.search(r"[A-Za-z]", word)
    return len(word) >= _LONG or (len(word) >= _LONG_IF_MIXED and bool(mixed))
