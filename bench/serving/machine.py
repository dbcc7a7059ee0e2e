"""The machine that numbers come from: what it is, and whether it was doing something else."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

_IDLE_SHARE = 0.05
_NAMED = ("uvicorn", "uvloop", "httptools", "mlflow", "scikit-learn", "treelite", "orjson", "numpy", "pandas")


def describe() -> dict[str, Any]:
    """What a reader needs to compare."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "python": platform.python_version(),
    }


def wait_until_quiet(within_s: float) -> dict[str, Any]:
    """Wait for a second in which the cores idle, for at most *within_s*; the load then, and the share of busy cores."""
    deadline = time.monotonic() + within_s
    while (busy := psutil.cpu_percent(interval=1) / 100) > _IDLE_SHARE and time.monotonic() < deadline:
        pass
    if busy > _IDLE_SHARE:
        print(f"the machine is not idle ({busy:.0%} busy): the numbers are too low", flush=True)
    return {"load": round(os.getloadavg()[0], 2), "busy_before": round(busy, 3)}


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
