"""What the stack looks like now: read from the supervisor's file and from the system. Changes nothing."""

import json
from pathlib import Path
from typing import Any, Literal

import psutil
from pydantic import BaseModel, ConfigDict

from deployments.stack import processes
from deployments.stack.plan import RECORD

State = Literal[
    "waiting",
    "starting",
    "running",
    "restarting",
    "unhealthy",
    "stopped",
    "external",
    "done",
    "failed",
]


class ComponentStatus(BaseModel):
    """One part. `done` is a job that has worked; `failed` one that was given up."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    state: State
    pid: int | None = None
    url: str | None = None
    uptime_s: float | None = None
    ready_s: float | None = None
    restarts: int = 0
    rss_mb: float | None = None
    last_error: str | None = None

    @property
    def healthy(self) -> bool:
        """It does what it is there for."""
        return self.state in ("running", "external", "done")


class StackStatus(BaseModel):
    """All parts, and the supervisor that owns them (None when nothing runs)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    supervisor_pid: int | None
    supervisor_mb: float | None = None
    components: list[ComponentStatus]

    @property
    def healthy(self) -> bool:
        """Every part works."""
        return all(part.healthy for part in self.components)

    @property
    def memory_mb(self) -> float:
        """What all processes take together."""
        return (self.supervisor_mb or 0.0) + sum(part.rss_mb or 0.0 for part in self.components)

    def __getitem__(self, name: str) -> ComponentStatus:
        return next(part for part in self.components if part.name == name)


def recorded(state: Path) -> dict[str, Any]:
    """The supervisor's last word, or nothing when there never was one."""
    try:
        found: dict[str, Any] = json.loads((state / RECORD).read_text())
    except FileNotFoundError:
        return {}
    return found


def supervisor_pid(record: dict[str, Any]) -> int | None:
    """The pid of the supervisor that wrote *record*, if it is still there."""
    who = record.get("supervisor", {})
    process = processes.find(who.get("pid"), who.get("start_time"))
    return process.pid if process else None


def components(record: dict[str, Any], *, weigh: bool) -> list[ComponentStatus]:
    """Every part of *record*; without its supervisor all count as stopped. Weighing memory takes a while."""
    supervised = supervisor_pid(record) is not None
    return [
        _component(name, raw, supervised=supervised, weigh=weigh) for name, raw in record.get("components", {}).items()
    ]


def _component(name: str, raw: dict[str, Any], *, supervised: bool, weigh: bool) -> ComponentStatus:
    process = processes.find(raw["pid"], raw["start_time"]) if supervised else None
    state: State = raw["state"] if supervised else "stopped"
    return ComponentStatus(
        name=name,
        state=state,
        pid=process.pid if process else None,
        url=raw["url"] or None,
        uptime_s=round(processes.uptime_s(raw["start_time"]), 1) if process else None,
        ready_s=raw["ready_s"],
        restarts=raw["restarts"],
        rss_mb=round(processes.memory_mb(process), 1) if process and weigh else None,
        last_error=raw["last_error"],
    )


def addresses(record: dict[str, Any]) -> dict[str, str]:
    """Name and address of every part that the supervisor runs."""
    return {name: raw.get("url", "") for name, raw in record.get("components", {}).items()}


def leftovers(record: dict[str, Any]) -> list[psutil.Process]:
    """Processes of a supervisor that is gone: those it recorded, their descendants, and all with its mark."""
    if supervisor_pid(record) is not None:
        return []
    found = {process.pid: process for process in processes.with_marker(record.get("supervisor", {}).get("mark", ""))}
    for raw in record.get("components", {}).values():
        process = processes.find(raw.get("pid"), raw.get("start_time"))
        if process:
            found.update({member.pid: member for member in processes.descendants(process)})
    return list(found.values())
