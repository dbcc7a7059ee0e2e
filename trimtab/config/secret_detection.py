"""Whether an address may be written into a file that everybody reads: does it hold a password or a token? A rule of
thumb that would rather ask once too often; where secret addresses belong is said by who asks."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlsplit

_TELLING = re.compile(r"pass|pwd|token|key|secret|sig|auth|code", re.IGNORECASE)
_LONG, _MIXED = 20, 12


def find_secret(address: str) -> str | None:
    """What in *address* looks secret, in words; None when nothing does."""
    try:
        parts = urlsplit(address)
        if parts.password or (parts.username and "@" not in parts.username):
            return "a user or a password before the host"
    except ValueError:
        return "something that is no address"
    if any(_looks_made(segment) for segment in parts.path.split("/")):
        return "what looks like a token in its path"
    for name, value in parse_qsl(parts.query):
        if _TELLING.search(name) or ("@" not in value and _looks_made(value)):
            return f"what looks like a secret in its query ({name})"
    return None


def _looks_made(word: str) -> bool:
    """Whether a machine made it up: longer than words are, or letters and digits all mixed."""
    mixed = re.search(r"\d", word) and re.search(r"[A-Za-z]", word)
    return len(word) >= _LONG or (len(word) >= _MIXED and bool(mixed))
