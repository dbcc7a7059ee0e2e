"""Ask a component whether it is ready. Standard library only: the supervisor asks, and stays small."""

import json
import subprocess
import urllib.error
import urllib.request
from datetime import datetime

from deployments.stack.plan import Component, Probe

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def probe(component: Component, started_at: float, *, timeout_s: float) -> str | None:
    """Why *component* is not ready, or None when it is."""
    probe = component.probe
    try:
        if probe.kind == "http":
            return _http(probe.target, timeout_s)
        if probe.kind == "worker":
            return _worker(probe, started_at, timeout_s)
        if probe.kind == "command":
            return _command(component, timeout_s)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return f"{type(error).__name__}: {error}"
    return "still running"


def _http(url: str, timeout_s: float) -> str | None:
    try:
        with DIRECT.open(url, timeout=timeout_s) as answer:
            return None if answer.status == 200 else f"{url} answers {answer.status}"
    except urllib.error.HTTPError as error:
        return f"{url} answers {error.code}"
    except OSError as error:
        return f"{url}: {getattr(error, 'reason', error)}"


def _worker(probe: Probe, started_at: float, timeout_s: float) -> str | None:
    request = urllib.request.Request(
        f"{probe.target}/work_pools/{probe.pool}/workers/filter",
        data=b"{}",
        headers={"Content-Type": "application/json"},
    )
    try:
        with DIRECT.open(request, timeout=timeout_s) as answer:
            workers = json.load(answer)
    except urllib.error.HTTPError as error:
        return f"work pool {probe.pool!r}: Prefect answers {error.code}"
    seen = [datetime.fromisoformat(worker["last_heartbeat_time"]).timestamp() for worker in workers]
    return None if any(moment >= started_at for moment in seen) else f"no worker in the pool {probe.pool!r} yet"


def _command(component: Component, timeout_s: float) -> str | None:
    done = subprocess.run(
        component.probe.command,
        env=component.env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    return None if done.returncode == 0 else (done.stdout + done.stderr).strip()
