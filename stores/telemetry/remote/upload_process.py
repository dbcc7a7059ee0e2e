"""Shipping beside a server, in a process of its own that lives as long as the server: it would take the interpreter's
lock from whoever answers. When the server ends, however it does, the process brings what is left to the store, and ends
too; after a minute also when the store is away, and the next one in that folder brings the rest."""

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
        """To be called every second or so, by one thread: listens to the process, and starts one when there is none."""
        if self._process is None and time.monotonic() >= self._not_before:
            self._mirror.root.mkdir(parents=True, exist_ok=True)
            self._process = start(self._mirror)
            self._not_before = time.monotonic() + _AGAIN_S
        if self._process is not None:
            self._listen(self._process)
            if self._process.poll() is not None:
                self.failure = f"the process that ships ended with {self._process.returncode}, and is started again"
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
    """Start shipping what is below *mirror*'s root. The process goes on until its standard input ends. Exit code 0: all
    is in the store, or another process is at it."""
    command = [sys.executable, "-m", "stores.telemetry", str(mirror.root.resolve()), "--store", mirror.objects.url]
    if mirror.objects.endpoint:
        command += ["--endpoint", mirror.objects.endpoint]
    env = {**_FRUGAL, **os.environ}
    return subprocess.Popen(command, cwd=_CODE, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def main(mirror: SharedTelemetry, *, left_behind_s: float = ORPHAN_LIMIT_S) -> int:
    """What the process does until its standard input ends or it is asked to end (SIGTERM), and then until nothing is
    left or *left_behind_s* are over. Exit code 1: something is left."""
    os.nice(_NICE)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal tells everybody; the server says when it is time
    signal.signal(signal.SIGTERM, lambda *_: _asked_to_end.set())
    mirror.root.mkdir(parents=True, exist_ok=True)
    with (mirror.root / "compacting.lock").open("a") as lock:
        while not _locked(lock):
            if _parent_ended(_LOOK_S):
                return 0
        return _upload_until_idle(mirror, left_behind_s)


def _upload_until_idle(mirror: SharedTelemetry, left_behind_s: float) -> int:
    from stores.telemetry.remote.upload import Uploader

    shipping, said, deadline = Uploader(mirror), "nothing yet", None
    while True:
        trouble = _upload_once(shipping, tidies=deadline is None)
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


def _upload_once(shipping: Any, *, tidies: bool) -> str | None:
    """Once; why it did not go well, or None."""
    try:
        shipping.upload_pending()
        if tidies:
            shipping.compact_if_due()
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
    with suppress(BrokenPipeError):  # nobody listens any more
        os.write(sys.stdout.fileno(), json.dumps(what).encode() + b"\n")


def _close(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
