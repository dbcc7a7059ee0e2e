"""Servers to measure: started one at a time in a process group of their own, waited for, and always stopped. What they
serve is in `bench.serving.servers`."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

_STOP_S = 10.0


class DidNotRun(RuntimeError):
    """Something could not be measured; the text says why."""


def free_port() -> int:
    """A port that is free at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def running(
    name: str, command: Sequence[str], *, ready: str, log: Path, env: Mapping[str, str], cwd: Path, within_s: float = 90
) -> Iterator[psutil.Process]:
    """The process of *command* while the block runs, from when the URL *ready* answers 200. Raises DidNotRun."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=cwd, env=dict(env), stdout=output, stderr=output, start_new_session=True
        )
        try:
            _wait(process, name, ready, log, within_s)
            yield psutil.Process(process.pid)
        finally:
            _stop(process)


def _wait(process: subprocess.Popen[bytes], name: str, ready: str, log: Path, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(ready, timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    ended = (
        f"ended with {process.returncode}" if process.poll() is not None else f"did not answer within {within_s:g} s"
    )
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    raise DidNotRun(f"{name} {ended}; the end of {log}:\n{tail}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the whole group: some servers start others."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, how)
            process.wait(_STOP_S)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue


def cpu_s(process: psutil.Process) -> float:
    """CPU time that a process and what it started have used."""
    total = 0.0
    for one in (process, *process.children(recursive=True)):
        try:
            used = one.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += used.user + used.system
    return float(total)


def machine_busy_s() -> float:
    """CPU time that all processes of this machine have used, and what its host took from it."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)
