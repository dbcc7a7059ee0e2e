"""Refuses challengers that crash the server. Each server process keeps a small state file that says what it is doing;
the next process reads the files of those that crashed. A challenger is refused after it crashed two processes, until
the ledger has a new version.

The file is mapped into memory. The kernel keeps what was written however the process ends, so marking "the challenger
is scoring" takes less than a microsecond. A crash while the challenger was in memory but not scoring has another likely
cause (the process was killed), so it counts only after four of them: the model may have started a thread."""

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
# calls to the challenger that are running, whether a release is being loaded, ledger version, digests of the challenger
# and of the release being loaded
_LAYOUT = struct.Struct("<BBxxxxxxQ64s64s")
_SUFFIX = ".state"
_MAX_CRASHES, _MAX_UNEXPLAINED = 2, 4


@dataclass(frozen=True)
class CrashRecord:
    """The release *digest* was in memory, under the ledger's *version*, when a process crashed. *scoring* is true when
    it was being scored or loaded at that moment."""

    digest: str
    version: int
    scoring: bool


class CrashGuard:
    """This process's state file in *folder*, and the files that crashed processes have left there. When the folder
    cannot be written, no challenger is refused."""

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
            log.warning("no crash guard file in %s: %s", folder, error)

    def refusal_reason(self, digest: str, version: int) -> str | None:
        """Why *digest* must not be a challenger under the ledger's *version*, or None when it may."""
        crashes = [crash for crash in self._crashes() if crash.digest == digest and crash.version == version]
        scoring = sum(crash.scoring for crash in crashes)
        if scoring >= _MAX_CRASHES:
            return f"refused: the server crashed {scoring} times while it scored with or loaded this release"
        if len(crashes) >= _MAX_UNEXPLAINED:
            return f"refused: the server crashed {len(crashes)} times while this release was the challenger"
        return None

    def set_challenger(self, digest: str | None, version: int) -> None:
        """Mark *digest* as the challenger in memory, and delete the records of earlier ledger versions."""
        with self._lock:
            self._state = (version, (digest or "").encode(), b"")
            self._write()
        for path, crash in self._left_files():
            if crash is None or crash.version < version:
                path.unlink(missing_ok=True)

    @contextmanager
    def loading(self, digest: str, version: int) -> Iterator[None]:
        """Mark that *digest* is being loaded."""
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
        """Mark that the challenger is scoring, in any thread."""
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
        """Delete the state file: this process ends without a crash."""
        if self._file is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = None

    def _write(self) -> None:
        version, challenger, loading = self._state
        self._memory[:] = _LAYOUT.pack(min(self._calls, 255), bool(loading), version, challenger, loading)

    def _crashes(self) -> list[CrashRecord]:
        return [crash for _, crash in self._left_files() if crash is not None]

    def _left_files(self) -> Iterator[tuple[Path, CrashRecord | None]]:
        """The files of processes that have ended, which no longer hold the lock."""
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            if path == self._path:
                continue
            try:
                with path.open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    yield path, _crash_record(file.read())
            except OSError:
                continue  # its process is running, or the file has been deleted


def _crash_record(content: bytes) -> CrashRecord | None:
    if len(content) != _LAYOUT.size:
        return None
    calls, loading, version, challenger, loaded = _LAYOUT.unpack(content)
    if loading:
        return CrashRecord(loaded.rstrip(b"\0").decode(), version, scoring=True)
    digest = challenger.rstrip(b"\0").decode()
    return CrashRecord(digest, version, scoring=calls > 0) if digest else None
