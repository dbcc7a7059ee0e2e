"""Uploads telemetry in a process of its own beside a server, because it would hold the interpreter's lock while
requests wait. When the server ends, however it ends, the process uploads what is left and ends too. If the store is
unavailable it ends after a minute, and the next process in that folder continues."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from stores.telemetry.remote.replica import SharedTelemetry

_NICE = 5  # others wait to read what it brings
_CODE = Path(__file__).parents[3]
_LOOK_S, _RETRY_S = 0.4, 1.0
ORPHAN_LIMIT_S = 60.0
_AGAIN_S = 5.0
# It lives as long as the server, and needs memory only now and then.
_FRUGAL = {"MALLOC_ARENA_MAX": "2", "ARROW_DEFAULT_MEMORY_POOL": "system", "ARROW_IO_THREADS": "1"}
_asked_to_end = threading.Event()


class UploadProcess:
    """Keeps such a process running for *mirror*, and knows what it says. *failure* is why not all could be brought to
    the store when it was last tried, or None."""

    def __init__(self, mirror: SharedTelemetry) -> None:
        self._mirror = mirror
        self._process: subprocess.Popen[bytes] | None = None
        self._said = b""
        self._not_before = 0.0
        self.failure: str | None = None

    @property
    def pid(self) -> int | None:
        """Its process, if one runs."""
        return None if self._process is None else self._process.pid

    def run_once(self) -> None:
        """Call it every second or so from one thread. It reads the process's messages and starts one when none runs."""
        if self._process is None and time.monotonic() >= self._not_before:
            self._mirror.root.mkdir(parents=True, exist_ok=True)
            self._process = start(self._mirror)
            self._not_before = time.monotonic() + _AGAIN_S
        if self._process is not None:
            self._listen(self._process)
            if self._process.poll() is not None:
                self.failure = f"the upload process ended with {self._process.returncode}, and is started again"
                _close(self._process)
                self._process = None

    def stop(self, *, within_s: float = 20.0) -> bool:
        """Have everything brought to the store and the process end; whether both happened in that time. What was not
        is brought by the next one that starts in this folder."""
        process, self._process = self._process or start(self._mirror), None
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(within_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._listen(process)
        _close(process)
        return process.returncode == 0

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        while select.select([process.stdout], [], [], 0)[0]:
            content = os.read(process.stdout.fileno(), 65_536)
            if not content:
                return
            *lines, self._said = (self._said + content).split(b"\n")
            for line in lines:
                self.failure = json.loads(line)["trouble"]


def start(mirror: SharedTelemetry) -> subprocess.Popen[bytes]:
    """Start uploading below the root of *mirror*. The process runs until its standard input ends. Exit code 0:
    everything is uploaded, or another process is uploading."""
    command = [sys.executable, "-m", "stores.telemetry", str(mirror.root.resolve()), "--store", mirror.objects.url]
    if mirror.objects.endpoint:
        command += ["--endpoint", mirror.objects.endpoint]
    env = {**_FRUGAL, **os.environ}
    return subprocess.Popen(command, cwd=_CODE, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def main(mirror: SharedTelemetry, *, left_behind_s: float = ORPHAN_LIMIT_S) -> int:
    """Upload until standard input ends or SIGTERM arrives, then until nothing is left or the time limit is over. Return
    1 when something is left."""
    os.nice(_NICE)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the whole group; the server ends this process
    signal.signal(signal.SIGTERM, lambda *_: _asked_to_end.set())
    mirror.root.mkdir(parents=True, exist_ok=True)
    with (mirror.root / "compacting.lock").open("a") as lock:
        while not _locked(lock):
            if _parent_ended(_LOOK_S):
                return 0
        return _upload_until_idle(mirror, left_behind_s)


def _upload_until_idle(mirror: SharedTelemetry, left_behind_s: float) -> int:
    from stores.telemetry.remote.upload import Uploader

    uploader, said, deadline = Uploader(mirror), "nothing yet", None
    while True:
        trouble = _upload_once(uploader, tidies=deadline is None)
        if trouble != said:
            _report({"trouble": trouble})
            said = trouble or ""
        if deadline is not None and (trouble is None or time.monotonic() > deadline):
            return 1 if trouble else 0
        wait_s = _LOOK_S if trouble is None else _RETRY_S
        if deadline is not None:
            time.sleep(wait_s)
        elif _parent_ended(wait_s):
            deadline = time.monotonic() + left_behind_s


def _upload_once(uploader: Any, *, tidies: bool) -> str | None:
    """Once; why it did not go well, or None."""
    try:
        uploader.upload_pending()
        if tidies:
            uploader.compact_if_due()
    except OSError as error:  # also a store that is away, or refuses
        return str(error)
    except Exception as error:  # noqa: BLE001 - whatever it is, the server has to tell it, and others go on
        return f"unexpected {type(error).__name__}: {error}"
    return None


def _locked(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _parent_ended(wait_s: float) -> bool:
    """Whether the standard input has ended, which is when the server has, after so long at most."""
    if _asked_to_end.is_set():
        return True
    if not select.select([sys.stdin], [], [], wait_s)[0]:
        return False
    return not os.read(sys.stdin.fileno(), 4096)


def _report(what: dict[str, Any]) -> None:
    with suppress(BrokenPipeError):  # the server has gone
        os.write(sys.stdout.fileno(), json.dumps(what).encode() + b"\n")


def _close(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
