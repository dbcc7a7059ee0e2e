"""One point of a measurement: wrk against a server for some seconds."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from bench.serving.processes import DidNotRun, cpu_s, machine_busy_s

_SCRIPT = Path(__file__).with_name("requests.lua")
_PATIENCE_S = 30


@dataclass(frozen=True)
class Target:
    """What wrk sends, and where to."""

    url: str
    bodies: Path
    content_type: str = "application/json"
    accept: str = "application/json"


@dataclass(frozen=True)
class Point:
    """What wrk measured. *server_cpu_us* is the CPU time of the server's processes per answer, *client_cpu* wrk's share
    of one core, *others_cpu* that of everything else on the machine, which ought to be next to nothing."""

    rps: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    answered: int
    refused: int
    server_cpu_us: float
    client_cpu: float
    others_cpu: float

    def as_json(self) -> dict[str, Any]:
        """As the results file has it."""
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(self).items()}


def measure(target: Target, process: psutil.Process, *, connections: int, seconds: int) -> Point:
    """Send for *seconds* over *connections*, one thread, the next request when the answer is there. Raises DidNotRun
    when a connection broke or nothing came back."""
    machine, server, client = machine_busy_s(), cpu_s(process), children_s()
    found = _wrk(target, connections, seconds)
    client, server, machine = children_s() - client, cpu_s(process) - server, machine_busy_s() - machine
    took_s = found["duration_us"] / 1e6
    answered = found["requests"] - found["status"]
    if not answered or found["broken"]:
        raise DidNotRun(f"{target.url} at {connections} connections: {found}")
    return Point(
        rps=answered / took_s,
        p50_ms=found["p50_us"] / 1000,
        p99_ms=found["p99_us"] / 1000,
        max_ms=found["max_us"] / 1000,
        answered=answered,
        refused=found["status"] + found["timeouts"],
        server_cpu_us=server / answered * 1e6,
        client_cpu=client / took_s,
        others_cpu=max(0.0, machine - server - client) / took_s,
    )


def _wrk(target: Target, connections: int, seconds: int) -> dict[str, Any]:
    command = [
        "wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s",
        "--timeout", f"{_PATIENCE_S}s", "--latency", "--script", str(_SCRIPT), target.url,
        "--", str(target.bodies), target.content_type, target.accept,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 2 * _PATIENCE_S)
    try:
        return dict(json.loads(done.stdout.splitlines()[-1]))
    except (IndexError, ValueError) as error:
        raise DidNotRun(f"wrk against {target.url}: {done.stdout[-500:]}{done.stderr[-500:]}") from error


def children_s() -> float:
    """CPU time of the processes that this one started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def ensure_wrk(*, is_root: bool) -> None:
    """wrk is there, or is installed when that is allowed. Raises DidNotRun, saying what to install."""
    if shutil.which("wrk"):
        return
    if is_root and shutil.which("apt-get"):
        print("installing wrk", flush=True)
        for step in (["update"], ["install", "--yes", "--no-install-recommends", "wrk"]):
            subprocess.run(["apt-get", "--quiet", "--quiet", *step], check=False, capture_output=True)
    if not shutil.which("wrk"):
        raise DidNotRun("wrk is not installed: `apt-get install wrk` on Debian and Ubuntu, or see its own pages")
