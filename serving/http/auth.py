"""API keys: the scopes that they open, and their exchange while the server runs. A key file is read again every second,
so no restart is needed where a file is replaced in place (Kubernetes does so with a Secret's)."""

from __future__ import annotations

import binascii
import hmac
import logging
from base64 import b64decode
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256

from pydantic import SecretStr, ValidationError

from serving.settings import ADMIN, LABELS, PREDICT, KeyFile, parse_keys
from trimtab.config.run_with_secrets import UnreadableSecret, read_secret

log = logging.getLogger(__name__)
_OPEN = frozenset({"/health", "/ready", "/metrics"})
_SCOPE_OF = {"/predict": PREDICT, "/labels": LABELS}

Headers = Iterable[tuple[bytes, bytes]]
Digests = tuple[tuple[str, bytes], ...]  # scope and SHA-256 of each key


class MissingKey(Exception):
    """The request has no key, or one that the server does not know."""


class ForbiddenScope(Exception):
    """The request's key is known but does not open *scope*."""

    def __init__(self, scope: str) -> None:
        super().__init__(f"this key does not open this: {scope} is needed")
        self.scope = scope


class ApiKeys:
    """The keys of a server, kept as SHA-256 digests.

    Without any key every path is open. With one, only health, readiness and metrics are. A key of scope admin opens
    every path.
    """

    def __init__(
        self, *, predict: Sequence[SecretStr] = (), labels: Sequence[SecretStr] = (), admin: Sequence[SecretStr] = ()
    ) -> None:
        self._digests = (*digests(PREDICT, predict), *digests(LABELS, labels), *digests(ADMIN, admin))

    @property
    def required(self) -> bool:
        """Whether the server has any key."""
        return bool(self._digests)

    def of(self, scope: str) -> Digests:
        """The digests of the keys of *scope*."""
        return tuple(digest for digest in self._digests if digest[0] == scope)

    def count(self, scope: str) -> int:
        """The number of keys of *scope*."""
        return len(self.of(scope))

    def replace(self, scope: str, new: Digests) -> None:
        """Replace the keys of *scope* from the next request on. Only one thread may call this. Threads that check keys
        meanwhile see all old keys or all new ones."""
        self._digests = (*(digest for digest in self._digests if digest[0] != scope), *new)

    def check(self, path: str, headers: Headers) -> None:
        """Raise MissingKey or ForbiddenScope unless the key in *headers* opens *path*. Every key is compared, each in
        constant time; comparing digests hides the lengths too."""
        known = self._digests
        if not known or path in _OPEN:
            return
        sent = sha256(_sent_key(headers)).digest()
        scopes = {scope for scope, digest in known if hmac.compare_digest(sent, digest)}
        if not scopes:
            raise MissingKey
        needed = ADMIN if path.startswith("/releases/") else _SCOPE_OF.get(path)
        if needed is not None and not scopes & {needed, ADMIN}:
            raise ForbiddenScope(needed)


class KeyReloader:
    """Reads the key *files* of some scopes again and replaces the keys that have changed.

    A file that cannot be read, or holds no key, changes nothing: the old keys stay valid, and the log and `trouble` say
    so. Keys are never shown.
    """

    def __init__(self, keys: ApiKeys, files: Mapping[str, KeyFile]) -> None:
        self._keys, self._files = keys, dict(files)
        self._seen: dict[str, Digests] = {}
        self._troubles: dict[str, str] = {}

    @property
    def trouble(self) -> str | None:
        """Why some file's keys are not up to date, or None."""
        return "; ".join(self._troubles.values()) or None

    def run_once(self) -> None:
        """Read every file. New keys are taken when two reads in a row have found the same: a file that is still being
        written may be incomplete."""
        for scope, file in self._files.items():
            try:
                found = digests(scope, parse_keys(read_secret(file.variable, str(file.path))))
                if not found:
                    raise UnreadableSecret(f"{file.variable} names {file.path}, which holds no key")
            except UnreadableSecret as error:
                self._set_trouble(scope, str(error))
            except ValidationError:  # its text would show the keys
                self._set_trouble(scope, f"{file.variable} names {file.path}, which looks like a JSON list but is none")
            else:
                self._set_trouble(scope, None)
                self._take(scope, found)

    def _take(self, scope: str, found: Digests) -> None:
        if found == self._keys.of(scope):
            self._seen.pop(scope, None)
        elif found != self._seen.get(scope):
            self._seen[scope] = found
        else:
            self._keys.replace(scope, found)
            del self._seen[scope]
            log.info("keys: %s has changed, its %d keys now open %s", self._files[scope].path, len(found), scope)

    def _set_trouble(self, scope: str, trouble: str | None) -> None:
        if trouble is None:
            self._troubles.pop(scope, None)
        elif trouble != self._troubles.get(scope):
            self._troubles[scope] = trouble
            self._seen.pop(scope, None)
            log.error("keys: %s; the previous keys of %s stay valid", trouble, scope)


def digests(scope: str, keys: Iterable[SecretStr]) -> Digests:
    """*scope* and SHA-256 of each of *keys*."""
    return tuple((scope, sha256(key.get_secret_value().encode()).digest()) for key in keys)


def _sent_key(headers: Headers) -> bytes:
    found = dict(headers)
    authorization = found.get(b"authorization", b"")
    if key := found.get(b"x-api-key"):
        return key
    scheme, _, credentials = authorization.partition(b" ")
    match scheme.lower():  # RFC 9110, 11.1: schemes have no case
        case b"bearer":
            return credentials.strip(b" ")
        case b"basic":  # for clients that cannot send headers of their own: http://anything:KEY@host/
            try:
                return b64decode(credentials.strip(b" "), validate=True).partition(b":")[2]
            except binascii.Error:
                return b""
        case _:
            return authorization
