"""Appending records to segments: each is on the file, whole, before `append` returns. The content of the
records is in `stores.telemetry.wal.recorder`; `stores.telemetry.parquet.compaction` turns finished segments into
Parquet."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from pathlib import Path

from stores.telemetry.wal.framing import MAGIC, header

SUFFIX = ".wal"
_PROBE_BYTES = 64 * 1024


class Unwritable(Exception):
    """A record could not be written, and nothing of it counts. *reason* is the operating system's."""

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(f"telemetry in {folder} cannot be written: {reason}")
        self.folder, self.reason = folder, reason


class WriteAheadLog:
    """A writer's own sequence of segments ``<writer>-<number>.wal`` in *folder*. Safe to share between threads.

    A record reaches the operating system with one write, so it survives the death of this process at any moment;
    `sync` makes it survive the machine's as well. The open segment carries an advisory lock, which the kernel drops
    with the process: a segment without one is finished. Nothing is ever appended to a segment of another life.
    """

    def __init__(
        self, folder: Path, writer: str, *, roll_bytes: int = 8 * 1024 * 1024, roll_after_s: float = 3600
    ) -> None:
        self._folder, self._writer = folder, writer
        self._roll_bytes, self._roll_after_s = roll_bytes, roll_after_s
        self._lock = threading.Lock()
        self._fd: int | None = None
        self._number = self._size = self._synced = 0
        self._opened = 0.0
        self._needed = _PROBE_BYTES
        self._full: list[int] = []
        self.write_error: str | None = None
        self.written_bytes = 0

    def append(self, payload: bytes, *, first_us: int, last_us: int) -> None:
        """Write one record. Raises Unwritable, after which the segment is as it was before."""
        start = header(payload, first_us, last_us)
        with self._lock:
            self._write(start, payload)
            size = len(start) + len(payload)
            self._size += size
            self.written_bytes += size
            if self._size >= self._roll_bytes:
                self._retire_segment()

    def probe(self) -> None:
        """Find out whether there is room again for what did not fit, leaving nothing. Sets or clears `write_error`."""
        with self._lock:
            try:
                self._write(MAGIC, bytes(self._needed))
            except Unwritable:
                return
            self._cut()

    def sync(self) -> None:
        """Make everything written so far survive a power cut, and let go of full segments. Appending goes on."""
        with self._lock:
            full, self._full = self._full, []
            behind = self._fd is not None and self._synced != self._size
            current = os.dup(self._fd) if behind and self._fd is not None else None
            self._synced = self._size
        for fd in full if current is None else [*full, current]:
            self._sync_and_close(fd)

    def roll(self, *, only_if_due: bool = False) -> bool:
        """Let the next `sync` finish the open segment, so that it can be compacted; True when there was one (that was
        old enough)."""
        with self._lock:
            due = not only_if_due or time.monotonic() - self._opened >= self._roll_after_s
            if self._fd is None or self._size == 0 or not due:
                return False
            self._retire_segment()
            return True

    def close(self) -> None:
        """Finish all segments; a later append starts a new one."""
        with self._lock:
            self._retire_segment()
        self.sync()

    def _write(self, start: bytes, payload: bytes) -> None:
        size = len(start) + len(payload)
        try:
            fd = self._segment()
            written = os.writev(fd, (start, payload))
            if written != size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self.write_error = reason = error.strerror or str(error)
            self._needed = max(_PROBE_BYTES, size)
            self._cut()
            raise Unwritable(self._folder, reason) from error
        self.write_error = None

    def _segment(self) -> int:
        if self._fd is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"{self._writer}-{self._number:06d}{SUFFIX}"
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o640)
            self._number += 1
            fcntl.flock(fd, fcntl.LOCK_EX)
            self._fd, self._size, self._synced, self._opened = fd, 0, 0, time.monotonic()
        return self._fd

    def _cut(self) -> None:
        """Take back what an unfinished write left; a segment that refuses is left alone, its tail counts nothing."""
        if self._fd is None:
            return
        try:
            os.ftruncate(self._fd, self._size)
        except OSError:
            self._retire_segment()

    def _retire_segment(self) -> None:
        """No more goes into this segment. `sync` closes it, as no writer should wait for the disk under the lock."""
        if self._fd is not None:
            self._full.append(self._fd)
            self._fd = None

    def _sync_and_close(self, fd: int) -> None:
        """The records are with the operating system already, so a failing sync loses none of them to a reader; it is
        noted, and the next write or probe finds out whether the trouble lasts."""
        try:
            os.fsync(fd)
        except OSError as error:
            self.write_error = error.strerror or str(error)
        os.close(fd)
