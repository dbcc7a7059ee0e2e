"""One component as a process: start it, apply probe results, handle its exit, describe it. The supervisor decides
when."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployments.stack import processes
from deployments.stack.plan import Component

_CHECK_WHILE_STARTING_S, _CHECK_EVERY_S = 0.1, 5.0
_FAILURES_UNTIL_UNHEALTHY = 3
_BACKOFF_S, _BACKOFF_LIMIT_S, _STABLE_S = 0.5, 30.0, 60.0
_JOB_ATTEMPTS = 3
_PR_SET_PDEATHSIG = 1


@dataclass
class ManagedProcess:
    """A component and its process. Times in `next_*` are on the monotonic clock."""

    part: Component
    state: str = "waiting"
    popen: subprocess.Popen[bytes] | None = None
    started: float | None = None
    started_at: float = 0.0
    ready_s: float | None = None
    restarts: int = 0
    backoff_s: float = _BACKOFF_S
    failures: int = 0
    next_start: float = 0.0
    next_check: float = 0.0
    last_error: str | None = None
    answer: "Future[str | None] | None" = None

    @property
    def ready(self) -> bool:
        """Whether it is running, or was a job and has finished."""
        return self.state in ("running", "unhealthy", "done")

    @property
    def exit_code(self) -> int | None:
        """The exit code of its process; None while it runs or before the first start."""
        return None if self.popen is None else self.popen.poll()

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self.popen is not None and self.popen.poll() is None

    def may_start(self, now: float) -> bool:
        """Whether it is down and its restart delay is over."""
        return self.state in ("waiting", "restarting") and now >= self.next_start

    @property
    def has_ended(self) -> bool:
        """Whether its process has exited and `end` was not called yet."""
        return self.state in ("starting", "running", "unhealthy") and self.exit_code is not None

    def probe_due(self, now: float) -> bool:
        """Whether a probe is due. A job is never probed, a worker only until its first heartbeat."""
        once = {"exit": (), "worker": ("starting",)}
        states = once.get(self.part.probe.kind, ("starting", "running", "unhealthy"))
        return self.answer is None and self.state in states and now >= self.next_check

    def start(self, environment: dict[str, str], logs: Path) -> str | None:
        """Start the process in a session of its own. Return the problem, or None."""
        env = {"MALLOC_ARENA_MAX": "2", **environment}  # glibc keeps an arena a thread otherwise, and gives none back
        env = {name: value for name, value in env.items() if name not in self.part.unset}
        self.popen, self.answer, self.ready_s, self.failures = None, None, None, 0
        self.started_at = time.time()
        try:
            with (logs / f"{self.part.name}.log").open("ab") as log:
                self.popen = subprocess.Popen(
                    self.part.command,
                    env={**env, **self.part.env},
                    cwd=self.part.cwd,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    user=self.part.uid,
                    group=self.part.gid,
                    extra_groups=None if self.part.uid is None else [],
                    preexec_fn=_die_with_parent(self.part.stop_signal),  # noqa: PLW1509
                )
        except OSError as error:
            return self.fail(f"cannot be started: {error}")
        self.started = processes.start_time(self.popen.pid)
        self.state = "starting"
        self.next_check = time.monotonic() + _CHECK_WHILE_STARTING_S
        return None

    def end(self) -> str:
        """Handle the exit of its process: a job may be done, anything else is restarted. Return what happened."""
        code, self.answer = self.exit_code, None  # what it was asked before is of no interest any more
        if self.part.probe.kind == "exit" and code == 0:
            self.state, self.ready_s = "done", self._age_s()
            return f"done in {self.ready_s} s"
        if self.popen is not None and self.part.kill_children:
            with suppress(OSError):
                os.killpg(self.popen.pid, signal.SIGKILL)
        return self.fail(_describe_exit(code or 0))

    def fail(self, reason: str) -> str:
        """Record *reason* and schedule a restart with exponential backoff; a job gives up after three attempts."""
        if self._age_s() > _STABLE_S:
            self.backoff_s = _BACKOFF_S
        self.last_error = reason
        self.restarts += 1
        self.next_start = time.monotonic() + self.backoff_s
        self.backoff_s = min(self.backoff_s * 2, _BACKOFF_LIMIT_S)
        given_up = self.part.probe.kind == "exit" and self.restarts >= _JOB_ATTEMPTS
        self.state = "failed" if given_up else "restarting"
        return f"{reason}; {'given up' if given_up else f'restart {self.restarts}'}"

    def on_probe(self, trouble: str | None) -> str | None:
        """Apply a probe's result. Return what changed, or None."""
        before, self.answer = self.state, None
        if before == "starting":
            self.next_check = time.monotonic() + _CHECK_WHILE_STARTING_S
            if trouble is None:
                self.state, self.ready_s = "running", self._age_s()
                return f"ready in {self.ready_s} s"
            return None
        self.next_check = time.monotonic() + _CHECK_EVERY_S
        self.failures = self.failures + 1 if trouble else 0
        if self.failures >= _FAILURES_UNTIL_UNHEALTHY:
            self.state, self.last_error = "unhealthy", trouble
        elif trouble is None:
            self.state = "running"
        return None if self.state == before else f"{self.state}: {trouble or 'answers again'}"

    def record(self) -> dict[str, Any]:
        """The public state: no command, no environment."""
        return {
            "state": self.state,
            "pid": self.popen.pid if self.popen and self.alive else None,
            "start_time": self.started if self.alive else None,
            "url": self.part.url,
            "ready_s": self.ready_s,
            "restarts": self.restarts,
            "last_error": self.last_error,
        }

    def _age_s(self) -> float:
        return round(time.time() - self.started_at, 1)


def _die_with_parent(stop_signal: int) -> Callable[[], None]:
    """On Linux, ask the kernel to send *stop_signal* to the child when its supervisor dies, even by kill -9.

    The returned function runs between fork and exec, where other threads' locks may be held forever; it makes one
    system call and takes no lock.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def prepare() -> None:
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, stop_signal, 0, 0, 0)

    return prepare


def _describe_exit(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
