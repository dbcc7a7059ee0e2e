"""A small process that owns all others: starts them in order, restarts what dies, stops them in order.

It reads its plan from standard input, publishes the state in `<state>/stack.json`, and holds a lock for as long as it
lives, so that there is only one. It is independent of Prefect and MLflow. Run it with `python -m
deployments.stack.supervisor`."""

import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import FrameType

import psutil

from deployments.stack import probes, processes
from deployments.stack.managed_process import ManagedProcess
from deployments.stack.plan import LOCK, LOCK_TAKEN, MARK, RECORD, Plan

LOG_LIMIT_BYTES = 10 * 2**20
_TICK_S, _IDLE_TICK_S = 0.1, 0.5
_HOUSEKEEPING_EVERY_S = 2.0


class Supervisor:
    """Runs a plan until it is asked to stop."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.me = {"pid": os.getpid(), "start_time": processes.start_time(os.getpid()), "mark": uuid.uuid4().hex}
        self.children = {part.name: ManagedProcess(part) for part in plan.components}
        self.stopping = False
        self.pool = ThreadPoolExecutor(max_workers=len(plan.components), thread_name_prefix="probe")
        self.written = ""
        self.logs = plan.state / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)

    def run(self) -> None:
        """Keep everything running until SIGTERM or SIGINT, then stop everything."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # only to wake us
        wake_read, wake_write = os.pipe()
        for end in (wake_read, wake_write):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        next_housekeeping = 0.0
        try:
            while not self.stopping:
                for child in self.children.values():
                    self._step(child)
                self._publish()
                if time.monotonic() >= next_housekeeping:
                    self._housekeeping()
                    next_housekeeping = time.monotonic() + _HOUSEKEEPING_EVERY_S
                tick_s = _IDLE_TICK_S if all(child.ready for child in self.children.values()) else _TICK_S
                if select.select([wake_read], [], [], tick_s)[0]:
                    os.read(wake_read, 4096)
        finally:
            self._stop_all()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.stopping = True

    def _step(self, child: ManagedProcess) -> None:
        """Do what is due for *child*, if anything."""
        now, news = time.monotonic(), None
        if child.may_start(now):
            if all(self.children[name].ready for name in child.part.needs):
                news = child.start({**os.environ, MARK: str(self.me["mark"])}, self.logs)
        elif child.has_ended:
            news = child.end()
        elif child.answer is not None and child.answer.done():
            news = child.on_probe(child.answer.result())
        elif child.probe_due(now):
            limit_s = 30.0 if child.state == "starting" else 5.0
            child.answer = self.pool.submit(probes.probe, child.part, child.started_at, timeout_s=limit_s)
        if news:
            self._note(f"{child.part.name}: {news}")

    def _stop_all(self) -> None:
        """Stop group by group, so that a server outlives its users. A process that is not ready yet is stopped at once.
        Processes that left their group are found by their marker."""
        alive = [child for child in self.children.values() if child.alive]
        asked = {child.part.name for child in alive if not child.ready}
        for child in alive:
            if child.popen and child.part.name in asked:
                child.popen.send_signal(child.part.stop_signal)
        for wave in sorted({child.part.stop_group for child in alive}):
            members = [(child, child.popen) for child in alive if child.part.stop_group == wave and child.popen]
            families = [processes.descendants(psutil.Process(popen.pid)) for _, popen in members]
            for child, popen in members:
                if child.part.name not in asked:
                    popen.send_signal(child.part.stop_signal)
            for (child, popen), family in zip(members, families, strict=True):
                with suppress(subprocess.TimeoutExpired):
                    popen.wait(child.part.stop_timeout_s)
                processes.terminate(family, grace_s=1.0)
                self._note(f"{child.part.name}: stopped")
        processes.terminate(processes.with_marker(str(self.me["mark"])), grace_s=2.0)
        for child in self.children.values():
            child.state = "stopped"
        self._publish()

    def _publish(self) -> None:
        """Write the state to the record atomically when it has changed."""
        known = {"supervisor": self.me, "components": {name: child.record() for name, child in self.children.items()}}
        text = json.dumps(known, indent=1)
        if text == self.written:
            return
        target = self.plan.state / RECORD
        draft = target.with_suffix(".new")
        with suppress(OSError):  # a full disk must not end what still works; said again at the next tick
            draft.write_text(text)
            draft.replace(target)
            self.written = text

    def _housekeeping(self) -> None:
        """Rotate the logs; stop when the state folder was deleted, as the supervisor could not be reached any more."""
        with suppress(OSError):
            rotate(self.logs)
        if not (self.plan.state / LOCK).exists():
            self.stopping = True

    def _note(self, text: str) -> None:
        with suppress(OSError):
            print(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {text}", flush=True)


def rotate(logs: Path, limit_bytes: int = LOG_LIMIT_BYTES) -> None:
    """Keep every log below about *limit_bytes* with one older part beside it. Writers append, so truncating the file is
    safe; lines written during the copy may be lost."""
    for log in logs.glob("*.log"):
        if log.stat().st_size > limit_bytes:
            shutil.copyfile(log, log.with_suffix(".log.1"))
            os.truncate(log, 0)


def main() -> int:
    """Read the plan, take the lock, and continue in a child process, so that the caller need not wait.

    Return `LOCK_TAKEN` when another supervisor is running.
    """
    plan = Plan.loads(sys.stdin.read())
    with (plan.state / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return LOCK_TAKEN
        if os.fork() == 0:
            Supervisor(plan).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
