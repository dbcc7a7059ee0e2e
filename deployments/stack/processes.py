"""Operating-system processes: find one that was started earlier, measure its memory, terminate it.

A pid is reused, so a process is identified by its pid and its start time."""

import os
import time
from collections.abc import Iterable
from contextlib import suppress

import psutil

from deployments.stack.plan import MARK

_BIRTH_TOLERANCE_S = 1.0
_KILL_TAKES_S = 5.0


def start_time(pid: int) -> float | None:
    """Return when *pid* started (epoch seconds), or None when there is no such process."""
    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return None


def find(pid: int | None, started: float | None) -> psutil.Process | None:
    """The process *pid* if it runs and started at *started* (epoch seconds); None otherwise, also for a zombie."""
    if not pid or started is None:
        return None
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - started) < _BIRTH_TOLERANCE_S
        return process if same and is_alive(process) else None
    except psutil.Error:
        return None


def descendants(process: psutil.Process) -> list[psutil.Process]:
    """Return *process* and all its descendants."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def with_marker(mark: str) -> list[psutil.Process]:
    """Return every process with *mark* in its environment, whatever its parent."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                found.append(process)
    return found


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs. A zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def terminate(processes: Iterable[psutil.Process], *, grace_s: float) -> None:
    """Terminate the *processes*, with SIGKILL after *grace_s* seconds."""
    left = [process for process in processes if is_alive(process)]
    for ask, patience_s in ((psutil.Process.terminate, grace_s), (psutil.Process.kill, _KILL_TAKES_S)):
        for process in left:
            with suppress(psutil.Error):
                ask(process)
        deadline = time.monotonic() + patience_s
        while left and time.monotonic() < deadline:
            time.sleep(0.02)
            left = [process for process in left if is_alive(process)]


def memory_mb(process: psutil.Process, *, alone: bool = False) -> float:
    """Memory of *process* and its descendants (unless *alone*) in MB: PSS, which counts shared pages once, where the
    system reports it, and the resident size otherwise."""
    return sum(_memory(member) for member in ([process] if alone else descendants(process))) / 2**20


def _memory(process: psutil.Process) -> int:
    try:
        info = process.memory_full_info()
        return int(getattr(info, "pss", 0) or info.rss)
    except psutil.AccessDenied:
        with suppress(psutil.Error):
            return int(process.memory_info().rss)
    except psutil.Error:
        pass
    return 0


def uptime_s(started: float) -> float:
    """Seconds since *started*."""
    return max(0.0, time.time() - started)
