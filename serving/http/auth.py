"""Who may ask for what: API keys in scopes. Where keys come from is `serving.settings`' business, and which take their
place while the server runs that of `serving.http.key_files`."""

from __future__ import annotations

import binascii
import hmac
from base64 import b64decode
from collections.abc import Iterable, Sequence
from hashlib import sha256

from pydantic import SecretStr

PREDICT, LABELS, ADMIN = "predict", "labels", "admin"
SCOPES = (PREDICT, LABELS, ADMIN)
_OPEN = frozenset({"/health", "/ready", "/metrics"})
_NEEDED = {"/predict": PREDICT, "/labels": LABELS}

Headers = Iterable[tuple[bytes, bytes]]
Digests = tuple[tuple[str, bytes], ...]  # scope and SHA-256 of each key


class NoKey(Exception):
    """No key was sent, or one that nobody has."""


class WrongKey(Exception):
    """A key for something else. *scope* is the one that is needed."""

    def __init__(self, scope: str) -> None:
        super().__init__(f"this key is for something else: {scope} is needed")
        self.scope = scope


class Keys:
    """The keys of a server. Without any, everything is open; with one, nothing but health, readiness and metrics is.
    A key of scope admin opens all."""

    def __init__(
        self, *, predict: Sequence[SecretStr] = (), labels: Sequence[SecretStr] = (), admin: Sequence[SecretStr] = ()
    ) -> None:
        self._digests = (*digests(PREDICT, predict), *digests(LABELS, labels), *digests(ADMIN, admin))

    @property
    def required(self) -> bool:
        """Whether a key has to be sent at all."""
        return bool(self._digests)

    def of(self, scope: str) -> Digests:
        """What is known of the keys of *scope*."""
        return tuple(digest for digest in self._digests if digest[0] == scope)

    def count(self, scope: str) -> int:
        """How many keys *scope* has."""
        return len(self.of(scope))

    def replace(self, scope: str, held: Digests) -> None:
        """Let *held* be the keys of *scope*, from the next request on. One thread at a time may do so, beside any that
        check: they see all old keys or all new ones."""
        self._digests = (*(digest for digest in self._digests if digest[0] != scope), *held)

    def check(self, path: str, headers: Headers) -> None:
        """Raise NoKey or WrongKey unless *path* may be asked for. Every key is compared, each in constant time (digests
        of them, so that lengths tell nothing either)."""
        known = self._digests
        if not known or path in _OPEN:
            return
        sent = sha256(_sent(headers)).digest()
        held = {scope for scope, digest in known if hmac.compare_digest(sent, digest)}
        if not held:
            raise NoKey
        needed = ADMIN if path.startswith("/releases/") else _NEEDED.get(path)
        if needed is not None and not held & {needed, ADMIN}:
            raise WrongKey(needed)


def digests(scope: str, keys: Iterable[SecretStr]) -> Digests:
    """What a server keeps of its *keys*."""
    return tuple((scope, sha256(key.get_secret_value().encode()).digest()) for key in keys)


def _sent(headers: Headers) -> bytes:
    found = dict(headers)
    authorization = found.get(b"authorization", b"")
    if key := found.get(b"x-api-key"):
        return key
    if authorization.startswith(b"Basic "):  # clients that can send no header of their own: http://anybody:KEY@host/
        try:
            return b64decode(authorization[6:], validate=True).partition(b":")[2]
        except binascii.Error:
            return b""
    return authorization.removeprefix(b"Bearer ")
