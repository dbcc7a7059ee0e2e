"""The machine that numbers come from: what it is, and whether it was doing something else."""

from __future__ import annotations

import fcntl
import importlib.metadata
import os
import platform
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

BUSY_SHARE = 0.1  # of one core: what others may take without spoiling a number
_LOOK_S = 0.5
_NAMED = ("uvicorn", "uvloop", "httptools", "mlflow", "scikit-learn", "treelite", "orjson", "numpy", "pandas")


def describe() -> dict[str, Any]:
    """What a reader needs to compare."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def be_alone() -> None:
    """Wait until no other run of this benchmark goes on here; from then on, others wait for this process's end."""
    path = Path(tempfile.gettempdir()) / f"trimtab-bench-{os.getuid()}.lock"
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("waiting for another run of this benchmark to end", flush=True)
        fcntl.flock(descriptor, fcntl.LOCK_EX)


@dataclass
class Patience:
    """The seconds that may still be spent on other processes: waiting until they rest, and measuring again what they
    disturbed."""

    left_s: float

    def settle(self) -> None:
        """Wait for a moment in which the machine rests."""
        while self.left_s > 0 and psutil.cpu_percent(interval=_LOOK_S) > 100 * BUSY_SHARE / (os.cpu_count() or 1):
            self.left_s -= _LOOK_S

    def spend(self, seconds: float) -> bool:
        """Whether there are *seconds* for doing something again; if so, they are spent."""
        if self.left_s < seconds:
            return False
        self.left_s -= seconds
        return True


def versions() -> dict[str, str]:
    """Of what takes part, in our environment."""
    found = {}
    for name in _NAMED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
