"""Which challengers end the process. A small file says what this life of the server is doing; whoever starts next reads
what the dead ones left. A challenger is refused after it ended two lives, until the ledger moves on.

The file is memory that the kernel keeps when the process dies, whatever it dies of, so saying "I am asking the
challenger now" costs less than a microsecond. Lives that ended while nobody asked the challenger (somebody killed the
process) count only when there are many: it may still be a thread that the model started."""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import struct
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger("trimtab.serving")
_LAYOUT = struct.Struct(
    "<BBxxxxxxQ64s64s"
)  # calls to the challenger, loading, ledger version, challenger, being loaded
_SUFFIX = ".life"
_MOST_DEATHS, _MOST_UNEXPLAINED = 2, 4


@dataclass(frozen=True)
class CrashRecord:
    """How a life ended. *asking* is False when the release was in memory but not asked at that moment."""

    digest: str
    version: int
    asking: bool


class CrashGuard:
    """This process' file in *folder*, and what the others there say. Where the folder cannot be written, nothing is
    known and nobody is refused."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._calls = 0
        self._state = (0, b"", b"")
        self._path = folder / f"{uuid.uuid4().hex}{_SUFFIX}"
        self._file: int | None = None
        self._memory: mmap.mmap | bytearray = bytearray(_LAYOUT.size)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o640)
            fcntl.flock(self._file, fcntl.LOCK_EX)
            os.write(self._file, bytes(_LAYOUT.size))
            self._memory = mmap.mmap(self._file, _LAYOUT.size)
        except OSError as error:
            log.warning("no life file in %s: %s", folder, error)

    def refusal_reason(self, digest: str, version: int) -> str | None:
        """Why *digest* must not be a challenger under the ledger's *version*, or None."""
        deaths = [death for death in self._deaths() if death.digest == digest and death.version == version]
        asking = sum(death.asking for death in deaths)
        if asking >= _MOST_DEATHS:
            return f"refused: the server died {asking} times while it asked or loaded this release"
        if len(deaths) >= _MOST_UNEXPLAINED:
            return f"refused: the server died {len(deaths)} times while this release was the challenger"
        return None

    def challenger(self, digest: str | None, version: int) -> None:
        """From now on *digest* is in memory as the challenger; deaths under earlier versions count no more."""
        with self._lock:
            self._state = (version, (digest or "").encode(), b"")
            self._write()
        for path, death in self._dead():
            if death is None or death.version < version:
                path.unlink(missing_ok=True)

    @contextmanager
    def loading(self, digest: str, version: int) -> Iterator[None]:
        """While *digest* is being loaded."""
        with self._lock:
            before = self._state
            self._state = (version, before[1], digest.encode())
            self._write()
        try:
            yield
        finally:
            with self._lock:
                self._state = (before[0], self._state[1], b"")
                self._write()

    @contextmanager
    def scoring(self) -> Iterator[None]:
        """While the challenger is asked, in whatever thread."""
        with self._lock:
            self._calls += 1
            self._memory[0] = min(self._calls, 255)
        try:
            yield
        finally:
            with self._lock:
                self._calls -= 1
                self._memory[0] = min(self._calls, 255)

    def close(self) -> None:
        """This life ends well."""
        if self._file is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = None

    def _write(self) -> None:
        version, challenger, loading = self._state
        self._memory[:] = _LAYOUT.pack(min(self._calls, 255), bool(loading), version, challenger, loading)

    def _deaths(self) -> list[CrashRecord]:
        return [death for _, death in self._dead() if death is not None]

    def _dead(self) -> Iterator[tuple[Path, CrashRecord | None]]:
        """What lives that are over have left."""
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            if path == self._path:
                continue
            try:
                with path.open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    yield path, _death(file.read())
            except OSError:
                continue  # alive, or gone by now


def _death(content: bytes) -> CrashRecord | None:
    if len(content) != _LAYOUT.size:
        return None
    calls, loading, version, challenger, loaded = _LAYOUT.unpack(content)
    if loading:
        return CrashRecord(loaded.rstrip(b"\0").decode(), version, asking=True)
    digest = challenger.rstrip(b"\0").decode()
    return CrashRecord(digest, version, asking=calls > 0) if digest else None
