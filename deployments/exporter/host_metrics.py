"""What the machine says of the place: room on the disk where the state is, and what each part of the stack takes as far
as this machine's supervisor runs it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
from prometheus_client.core import GaugeMetricFamily

from deployments.exporter.polling import gauge, one
from deployments.stack import processes
from deployments.stack import state as state_module


def of(state: Path) -> Iterator[GaugeMetricFamily]:
    """Disk and parts. Raises OSError when the state folder is not there."""
    room = shutil.disk_usage(state)
    yield one("disk_free_bytes", "Free where the state folder is.", room.free)
    yield one("disk_size_bytes", "Size of the disk where the state folder is.", room.total)
    parts = state_module.components(state_module.recorded(state), weigh=True)
    yield gauge(
        "part_up", "1 for each part of the stack that works.", ["part"], [((p.name,), p.healthy) for p in parts]
    )
    yield gauge("part_restarts", "How often a part was restarted.", ["part"], [((p.name,), p.restarts) for p in parts])
    weights = [((part.name,), part.rss_mb * 2**20) for part in parts if part.rss_mb is not None]
    yield gauge("part_memory_bytes", "Memory of a part and of what it started.", ["part"], weights)
    spent = [((part.name,), _cpu_s(part.pid)) for part in parts if part.pid is not None]
    yield gauge("part_cpu_seconds", "Processor time of a part and of what it started.", ["part"], spent)


def _cpu_s(pid: int) -> float:
    """Of a process and its descendants; who has ended counts with whoever waited for it."""
    spent = 0.0
    with suppress(psutil.Error):
        for member in processes.family(psutil.Process(pid)):
            with suppress(psutil.Error):
                spent += sum(member.cpu_times()[:4])
    return spent
