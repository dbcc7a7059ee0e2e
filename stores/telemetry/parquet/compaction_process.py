"""Compaction in a process of its own beside a server, because it would hold the interpreter's lock while requests
wait."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

from stores.telemetry.parquet.compaction import compact_stream, is_finished, release_memory
from stores.telemetry.parquet.merge import merge
from stores.telemetry.wal import streams

_NICE = 10  # low, but at 19 it would starve beside a server that is busy all the time
_CODE = Path(__file__).parents[3]


class CompactionProcess:
    """Starts a compaction of *root* when there are finished segments, one at a time, and records how the last one
    ended. The process ends when nothing is left, also when the server that started it has died."""

    def __init__(self, root: Path, *, every_s: float = 60) -> None:
        self._root, self._every_s = root, every_s
        self._process: subprocess.Popen[bytes] | None = None
        self._not_before = 0.0
        self.failure: str | None = None

    @property
    def running(self) -> bool:
        """Whether a compaction was under way at the last look."""
        return self._process is not None

    @property
    def pid(self) -> int | None:
        """Its process, if one runs."""
        return None if self._process is None else self._process.pid

    def run_once(self) -> None:
        """Call it every second or so from one thread. It collects a process that has ended and, *every_s* after the
        last end, starts one if there is a finished segment."""
        if self._process is not None:
            self._reap(self._process)
        if self._process is None and time.monotonic() >= self._not_before and has_finished_segments(self._root):
            self._process = start(self._root)

    def stop(self) -> None:
        """End what runs, and wait for it. Compaction may be interrupted at any moment."""
        if self._process is not None:
            self._process.terminate()
            self._process.communicate()
            self._process = None

    def _reap(self, process: subprocess.Popen[bytes]) -> None:
        code = process.poll()
        if code is None:
            return
        _, said = process.communicate()
        last_line = (said.decode(errors="replace").strip() or f"exit code {code}").splitlines()[-1]
        self.failure = last_line if code else None
        self._process, self._not_before = None, time.monotonic() + self._every_s


def compact(root: Path) -> int:
    """Convert every finished segment below *root* to a part and merge small parts. Return the number of segments
    converted.

    Raises OSError when the disk is full; everything stays readable and a later call continues.
    """
    done = 0
    for stream in streams.STREAMS:
        done += compact_stream(root, stream)
        merge(root, stream)
    if done:
        release_memory()
    return done


def has_finished_segments(root: Path) -> bool:
    """Whether a segment below *root* is finished."""
    return any(is_finished(path) for stream in streams.STREAMS for path in streams.segments(root, stream).values())


def start(root: Path) -> subprocess.Popen[bytes]:
    """Start a compaction of *root*. Exit code 0: nothing is left to do, or another process is compacting."""
    command = [sys.executable, "-m", "stores.telemetry", str(root.resolve())]
    return subprocess.Popen(
        command, cwd=_CODE, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def main(root: Path) -> int:
    """Compact *root* until nothing is left. Return 1, and print why, when it fails."""
    if not root.is_dir():
        print(f"there is no folder {root}", file=sys.stderr)
        return 1
    os.nice(_NICE)
    with (root / "compacting.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0
        try:
            while compact(root):
                pass
        except OSError as error:
            print(f"telemetry in {root} cannot be compacted: {error}", file=sys.stderr)
            return 1
    return 0
