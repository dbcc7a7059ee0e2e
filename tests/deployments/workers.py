"""A worker process, and flow runs for it at Prefect's API."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from tests.waiting import eventually

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

POOL = "warm"
LIGHT_POOL = "warm-light"  # for workers that are killed; the shared one must not take their runs


@dataclass
class Worker:
    """A worker process in its own session, and its log."""

    process: subprocess.Popen[bytes]
    log: Path

    def text(self) -> str:
        return self.log.read_text()

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def fork_server(self) -> psutil.Process:
        return next(child for child in self.descendants() if any("fork_server" in part for part in child.cmdline()))

    def is_warm(self, times: int = 1) -> bool:
        return len(re.findall(r"Fork server \d+ is warm", self.text())) >= times


StartWorker = Callable[..., AbstractContextManager[Worker]]


@dataclass
class FlowRunClient:
    """Starts flow runs at Prefect's API and reads their states."""

    client: SyncPrefectClient
    pool: str

    def run(self, name: str, **parameters: Any) -> FlowRun:
        deployment = self.client.read_deployment_by_name(f"{name.replace('_', '-')}/{self.pool}")
        return self.client.create_flow_run_from_deployment(deployment.id, parameters=parameters)

    def state(self, run: FlowRun) -> str:
        state = self.client.read_flow_run(run.id).state
        return (state and state.name) or "none"

    def message(self, run: FlowRun) -> str:
        state = self.client.read_flow_run(run.id).state
        return (state and state.message) or ""

    def finish(self, run: FlowRun, seconds: float = 30) -> str:
        finals = {"Completed", "Failed", "Crashed", "Cancelled"}
        eventually(lambda: self.state(run) in finals, f"{run.name} is over", within_s=seconds, every_s=0.05)
        return self.state(run)


def is_alive(pid: int) -> bool:
    """Whether the process still runs; one that is dead and only waits to be reaped does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def read_report(path: Path, seconds: float = 30) -> dict[str, Any]:
    """What a flow run has written about itself."""
    eventually(path.exists, f"{path.name} is written", within_s=seconds, every_s=0.05)
    found: dict[str, Any] = json.loads(path.read_text())
    return found
