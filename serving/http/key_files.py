"""Keys that change while the server runs: files that hold them are read again and again, so that no restart is needed
where a file can be replaced in place (Kubernetes does so with a Secret's). What a key opens is `serving.http.auth`'."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from pydantic import ValidationError

from serving.http.auth import Digests, Keys, digests
from serving.settings import KeyFile, parse_keys
from trimtab.config.secret_files import UnreadableSecret, read_secret

log = logging.getLogger(__name__)


class KeyFiles:
    """Follows the *files* of some scopes. A file that cannot be read, or holds no key, changes nothing: the keys from
    before go on, and the log and `trouble` say so. Keys are never shown."""

    def __init__(self, keys: Keys, files: Mapping[str, KeyFile]) -> None:
        self._keys, self._files = keys, dict(files)
        self._seen: dict[str, Digests] = {}
        self._troubles: dict[str, str] = {}

    @property
    def trouble(self) -> str | None:
        """Which files cannot be followed now."""
        return "; ".join(self._troubles.values()) or None

    def look(self) -> None:
        """Once. New keys are taken when two looks have found the same: who writes a file may not be done with it."""
        for scope, file in self._files.items():
            try:
                found = digests(scope, parse_keys(read_secret(file.variable, str(file.path))))
                if not found:
                    raise UnreadableSecret(f"{file.variable} names {file.path}, which holds no key")
            except UnreadableSecret as error:
                self._note(scope, str(error))
            except ValidationError:  # whose text would hold the keys
                self._note(scope, f"{file.variable} names {file.path}, which looks like a JSON list but is none")
            else:
                self._note(scope, None)
                self._take(scope, found)

    def _take(self, scope: str, found: Digests) -> None:
        if found == self._keys.of(scope):
            self._seen.pop(scope, None)
        elif found != self._seen.get(scope):
            self._seen[scope] = found
        else:
            self._keys.replace(scope, found)
            del self._seen[scope]
            log.info("keys: %s has changed, its %d keys open what %s may", self._files[scope].path, len(found), scope)

    def _note(self, scope: str, trouble: str | None) -> None:
        if trouble is None:
            self._troubles.pop(scope, None)
        elif trouble != self._troubles.get(scope):
            self._troubles[scope] = trouble
            self._seen.pop(scope, None)
            log.error("keys: %s; the keys of %s from before go on", trouble, scope)
