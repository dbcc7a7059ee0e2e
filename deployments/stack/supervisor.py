"""One small process that owns all others: starts them in order, restarts what dies, stops them in order.

It reads its plan from standard input, tells what it sees in `<state>/stack.json`, and holds a lock for as
long as it lives, so that a second one cannot be. It knows nothing of Prefect or MLflow; the plan says it all.
Run it with `python -m deployments.stack.supervisor`."""

import ctypes
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from deployments.stack import probes, processes
from deployments.stack.plan import MARK, Component, Plan

LOCK_TAKEN = 3
LOG_LIMIT_BYTES = 10 * 2**20
_TICK_S, _IDLE_TICK_S = 0.1, 0.5
_CHECK_EVERY_S, _FAILURES_UNTIL_UNHEALTHY = 5.0, 3
_BACKOFF_S, _BACKOFF_LIMIT_S, _STABLE_S = 0.5, 30.0, 60.0
_JOB_ATTEMPTS = 3
_PR_SET_PDEATHSIG = 1


@dataclass
class Child:
    """A component and its life so far."""

    part: Component
    state: str = "waiting"
    popen: subprocess.Popen[bytes] | None = None
    birth: float | None = None
    started_at: float = 0.0
    ready_s: float | None = None
    restarts: int = 0
    next_start: float = 0.0
    backoff_s: float = _BACKOFF_S
    failures: int = 0
    next_check: float = 0.0
    last_error: str | None = None
    answer: "Future[str | None] | None" = None

    @property
    def ready(self) -> bool:
        """It works, or was a job and has worked."""
        return self.state in ("running", "unhealthy", "done")

    @property
    def watched(self) -> bool:
        """It answers questions now. A job never does; a worker is asked only until it has reported once."""
        once = {"exit": (), "worker": ("starting",)}
        return self.state in once.get(
            self.part.probe.kind, ("starting", "running", "unhealthy")
        )

    def record(self) -> dict[str, Any]:
        """What others may know: no command, no environment."""
        alive = self.popen is not None and self.popen.poll() is None
        return {
            "state": self.state,
            "pid": self.popen.pid if self.popen and alive else None,
            "birth": self.birth if alive else None,
            "url": self.part.url,
            "started_at": self.started_at or None,
            "ready_s": self.ready_s,
            "restarts": self.restarts,
            "last_error": self.last_error,
        }


class Supervisor:
    """Runs a plan until it is told to stop."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.mark = uuid.uuid4().hex
        self.children = {part.name: Child(part) for part in plan.components}
        self.stopping = False
        self.pool = ThreadPoolExecutor(
            max_workers=len(plan.components), thread_name_prefix="probe"
        )
        self.written = ""
        self.logs = plan.state / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)

    def run(self) -> None:
        """Until SIGTERM or SIGINT: keep everything up; then take everything down."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        next_rotation = 0.0
        try:
            while not self.stopping:
                for child in self.children.values():
                    self._step(child)
                self._publish()
                if time.monotonic() >= next_rotation:
                    rotate(self.logs)
                    next_rotation = time.monotonic() + 10
                time.sleep(
                    _IDLE_TICK_S
                    if all(child.ready for child in self.children.values())
                    else _TICK_S
                )
        finally:
            self._stop_all()

    def _on_signal(self, number: int, frame: object) -> None:
        self.stopping = True

    def _step(self, child: Child) -> None:
        now = time.monotonic()
        if child.state in ("waiting", "restarting"):
            if now >= child.next_start and all(
                self.children[name].ready for name in child.part.needs
            ):
                self._start(child)
        elif child.popen is not None and child.popen.poll() is not None:
            self._ended(child, child.popen.returncode)
        elif child.answer is not None and child.answer.done():
            self._heard(child, child.answer)
        elif child.answer is None and now >= child.next_check and child.watched:
            limit_s = 30.0 if child.state == "starting" else 5.0
            child.answer = self.pool.submit(
                probes.trouble, child.part, child.started_at, timeout_s=limit_s
            )

    def _start(self, child: Child) -> None:
        part = child.part
        env = {**os.environ, **part.env, MARK: self.mark}
        for name in part.unset:
            env.pop(name, None)
        child.started_at, child.ready_s, child.answer, child.failures = (
            time.time(),
            None,
            None,
            0,
        )
        with (self.logs / f"{part.name}.log").open("ab") as log:
            try:
                child.popen = subprocess.Popen(
                    part.command,
                    env=env,
                    cwd=part.cwd,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    user=part.uid,
                    group=part.gid,
                    extra_groups=None if part.uid is None else [],
                    preexec_fn=_die_with_parent(part.stop_signal, part.nice),  # noqa: PLW1509
                )
            except OSError as error:
                self._ended(child, f"cannot be started: {error}")
                return
        child.birth = processes.born(child.popen.pid)
        child.state = "starting"
        child.next_check = time.monotonic() + 0.1
        self._publish()

    def _ended(self, child: Child, result: int | str) -> None:
        if child.part.probe.kind == "exit" and result == 0:
            child.state, child.ready_s = (
                "done",
                round(time.time() - child.started_at, 1),
            )
            return
        child.last_error = result if isinstance(result, str) else _describe(result)
        self._note(f"{child.part.name}: {child.last_error}")
        if child.popen is not None and child.part.kill_children:
            with suppress(OSError):
                os.killpg(child.popen.pid, signal.SIGKILL)
        if time.time() - child.started_at > _STABLE_S:
            child.backoff_s = _BACKOFF_S
        child.restarts += 1
        child.next_start = time.monotonic() + child.backoff_s
        child.backoff_s = min(child.backoff_s * 2, _BACKOFF_LIMIT_S)
        given_up = child.part.probe.kind == "exit" and child.restarts >= _JOB_ATTEMPTS
        child.state = "failed" if given_up else "restarting"

    def _heard(self, child: Child, answer: "Future[str | None]") -> None:
        child.answer = None
        trouble = answer.result()
        if child.state == "starting":
            child.next_check = time.monotonic() + 0.1
            if trouble is None:
                child.state, child.ready_s = (
                    "running",
                    round(time.time() - child.started_at, 1),
                )
                self._note(f"{child.part.name}: ready in {child.ready_s} s")
            return
        child.next_check = time.monotonic() + _CHECK_EVERY_S
        child.failures = child.failures + 1 if trouble else 0
        if trouble and child.failures >= _FAILURES_UNTIL_UNHEALTHY:
            child.state, child.last_error = "unhealthy", trouble
        elif trouble is None:
            child.state = "running"

    def _stop_all(self) -> None:
        alive = [
            child
            for child in self.children.values()
            if child.popen and child.popen.poll() is None
        ]
        for wave in sorted({child.part.stop_wave for child in alive}):
            members = [child for child in alive if child.part.stop_wave == wave]
            families = {
                child.part.name: processes.family(psutil.Process(child.popen.pid))
                for child in members
                if child.popen
            }
            for child in members:
                if child.popen:
                    child.popen.send_signal(child.part.stop_signal)
            for child in members:
                if child.popen:
                    with suppress(subprocess.TimeoutExpired):
                        child.popen.wait(child.part.stop_timeout_s)
                processes.end(families[child.part.name], grace_s=1.0)
                child.state = "stopped"
        processes.end(processes.marked(self.mark), grace_s=2.0)
        for child in self.children.values():
            child.state = "stopped"
        self._publish(stopped=True)
        self._note("stopped")

    def _publish(self, *, stopped: bool = False) -> None:
        text = json.dumps(
            {
                "supervisor": {
                    "pid": os.getpid(),
                    "birth": processes.born(os.getpid()),
                    "mark": self.mark,
                },
                "stopped": stopped,
                "components": {
                    name: child.record() for name, child in self.children.items()
                },
            },
            indent=1,
        )
        if text != self.written:
            target = self.plan.state / "stack.json"
            draft = target.with_suffix(".json.new")
            draft.write_text(text)
            draft.replace(target)
            self.written = text

    def _note(self, text: str) -> None:
        print(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {text}", flush=True)


def rotate(logs: Path) -> None:
    """Keep every log below about `LOG_LIMIT_BYTES`, and one older part beside it. The writers append, so
    emptying the file under them is safe; what they write during the copy may be lost."""
    for log in logs.glob("*.log"):
        if log.stat().st_size > LOG_LIMIT_BYTES:
            shutil.copyfile(log, log.with_suffix(".log.1"))
            os.truncate(log, 0)


def _die_with_parent(stop_signal: int, nice: int) -> Callable[[], None]:
    """Linux only: a child is asked to stop when its supervisor is gone, even by kill -9."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def prepare() -> None:
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, stop_signal, 0, 0, 0)
        if nice:
            os.nice(nice)

    return prepare


def _describe(code: int) -> str:
    return (
        f"killed by signal {signal.Signals(-code).name}"
        if code < 0
        else f"ended with exit code {code}"
    )


def main() -> int:
    """Take the lock, read the plan, run it. The exit code is `LOCK_TAKEN` when another supervisor lives."""
    plan = Plan.loads(sys.stdin.read())
    plan.state.mkdir(parents=True, exist_ok=True)
    with (plan.state / "stack.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return LOCK_TAKEN
        Supervisor(plan).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
