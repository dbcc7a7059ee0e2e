"""Between the command line and the supervisor: hand over a plan, watch it come up, stop it, clear what a
killed one has left. What is in the plan does not matter here."""

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from deployments.stack import processes
from deployments.stack import state as state_module
from deployments.stack.plan import CODE, LOCK, LOCK_TAKEN, Plan, StackError
from deployments.stack.state import ComponentStatus

Echo = Callable[[str], None]
_READY_WITHIN_S = 180.0
_ATTEMPTS = 3
STOP_WITHIN_S = 120.0  # longer than all waves of all parts at their slowest
_TAIL_LINES = 12


@contextmanager
def exclusive(state: Path, echo: Echo) -> Iterator[None]:
    """One `up` at a time prepares and starts; a second one waits for it here."""
    with (state / "up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            echo("another `trimtab up` is at work; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def start(plan: Plan) -> None:
    """Hand *plan* to a supervisor that outlives us, and wait until it has written its first word.

    The plan goes through a pipe, because environments may hold secrets and arguments are for all to see.
    """
    logs = plan.state / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join(filter(None, [str(CODE), os.environ.get("PYTHONPATH", "")]))
    try:
        with (logs / "supervisor.log").open("ab") as log:
            code = subprocess.run(
                [sys.executable, "-P", "-m", "deployments.stack.supervisor"],
                env={**os.environ, "PYTHONPATH": path},
                cwd=plan.state,
                input=plan.dumps().encode(),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                check=False,
            ).returncode
    finally:
        has_spoken = _wait_for_record(plan.state)
    if code == LOCK_TAKEN:
        raise StackError(f"a stack is still stopping in {plan.state}; try again in a moment")
    if code != 0 or not has_spoken:
        raise StackError(f"the supervisor ended at once (exit code {code}); see {logs / 'supervisor.log'}")


def _wait_for_record(state: Path) -> bool:
    """Wait until the supervisor that holds the lock has written its record, without which it could not be stopped."""
    while _is_locked(state):
        if state_module.supervisor_pid(state_module.recorded(state)) is not None:
            return True
        time.sleep(0.02)
    return False


def _is_locked(state: Path) -> bool:
    with (state / LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def watch(plan: Plan, echo: Echo) -> None:
    """Say when each part of *plan* is ready; raise a StackError when one does not make it."""
    said: set[str] = set()
    deadline = time.monotonic() + _READY_WITHIN_S
    while True:
        record = state_module.recorded(plan.state)
        if state_module.supervisor_pid(record) is None:
            raise StackError(f"the stack was stopped while it started; see {plan.state / 'logs' / 'supervisor.log'}")
        parts = [part for part in state_module.components(record, weigh=False) if part.name in plan.names]
        for part in parts:
            if part.healthy and part.name not in said:
                said.add(part.name)
                echo(f"{part.name} ready in {part.ready_s} s")
            if part.state == "failed" or (part.state == "restarting" and part.restarts >= _ATTEMPTS):
                raise StackError(f"{part.name} does not start: {_log_tail(part, plan.state)}")
        if all(part.healthy for part in parts):
            return
        if time.monotonic() > deadline:
            late = next(part for part in parts if not part.healthy)
            raise StackError(f"{late.name} is not ready after {_READY_WITHIN_S:.0f} s: {_log_tail(late, plan.state)}")
        time.sleep(0.1)


def stop(state: Path) -> bool:
    """Stop the supervisor of *state* and all that it runs, and clear leftovers; False if there was nothing."""
    pid = state_module.supervisor_pid(state_module.recorded(state))
    if pid is not None:
        with suppress(psutil.NoSuchProcess):
            processes.terminate([psutil.Process(pid)], grace_s=STOP_WITHIN_S)
        if state_module.supervisor_pid(state_module.recorded(state)) is not None:
            raise StackError(f"the stack of {state} does not stop; its supervisor is process {pid}, of another user?")
    return remove_leftovers(state) or pid is not None


def remove_leftovers(state: Path) -> bool:
    """End what a supervisor that is gone has left behind; True if there was anything."""
    leftovers = state_module.leftovers(state_module.recorded(state))
    processes.terminate(leftovers, grace_s=5.0)
    return bool(leftovers)


def _log_tail(part: ComponentStatus, state: Path) -> str:
    log = state / "logs" / f"{part.name}.log"
    lines = log.read_text(errors="replace").splitlines()[-_TAIL_LINES:] if log.exists() else []
    return "\n".join([f"{part.last_error or part.state}. The end of {log}:", *(f"  {line}" for line in lines)])
