"""What the machine says of the place: room on the disk where the state is, and what each part of the stack takes as far
as this machine's supervisor runs it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
from prometheus_client.core import GaugeMetricFamily

from deployments.exporter.rounds import gauge, one
from deployments.stack import processes, report


def of(state: Path) -> Iterator[GaugeMetricFamily]:
    """Disk and parts. Raises OSError when the state folder is not there."""
    room = shutil.disk_usage(state)
    yield one("disk_free_bytes", "Free where the state folder is.", room.free)
    yield one("disk_size_bytes", "Size of the disk where the state folder is.", room.total)
    found = report.recorded(state)
    parts = report.components(found, weigh=False)
    yield gauge(
        "part_up", "1 for each part of the stack that works.", ["part"], [((p.name,), p.healthy) for p in parts]
    )
    yield gauge("part_restarts", "How often a part was restarted.", ["part"], [((p.name,), p.restarts) for p in parts])
    families = {p.name: processes.family(psutil.Process(p.pid)) for p in parts if p.pid and psutil.pid_exists(p.pid)}
    taken = {name: _taken(members) for name, members in families.items()}
    yield gauge(
        "part_memory_bytes", "Memory of a part and of what it started.", ["part"],
        [((name,), memory) for name, (memory, _) in taken.items()],
    )  # fmt: skip
    yield gauge(
        "part_cpu_seconds", "Processor time of a part and of what it started.", ["part"],
        [((name,), cpu) for name, (_, cpu) in taken.items()],
    )  # fmt: skip


def _taken(members: list[psutil.Process]) -> tuple[float, float]:
    """Memory and processor time. Pages that forks share are counted once for each; who has ended counts with whoever
    waited for it."""
    memory, cpu = 0.0, 0.0
    for member in members:
        with suppress(psutil.Error):
            memory += member.memory_info().rss
            cpu += sum(member.cpu_times()[:4])
    return memory, cpu
