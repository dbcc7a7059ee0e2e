"""Metrics of the host: disk space at the state folder, and health and resources of the stack's components that this
host's supervisor runs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
from prometheus_client.core import GaugeMetricFamily

from deployments.exporter.polling import gauge, single
from deployments.stack import processes
from deployments.stack import state as state_module


def host_metrics(state: Path) -> Iterator[GaugeMetricFamily]:
    """Disk and components. Raises OSError when there is no state folder."""
    disk = shutil.disk_usage(state)
    yield single("disk_free_bytes", "Free disk space at the state folder.", disk.free)
    yield single("disk_size_bytes", "Size of the disk with the state folder.", disk.total)
    components = state_module.components(state_module.recorded(state), weigh=True)
    healthy = [((each.name,), each.healthy) for each in components]
    yield gauge("component_up", "1 if a component of the stack is healthy.", ["component"], healthy)
    restarts = [((each.name,), each.restarts) for each in components]
    yield gauge("component_restarts", "Restarts of a component.", ["component"], restarts)
    memory = [((each.name,), each.rss_mb * 2**20) for each in components if each.rss_mb is not None]
    yield gauge("component_memory_bytes", "Memory of a component and its child processes.", ["component"], memory)
    cpu = [((each.name,), _cpu_s(each.pid)) for each in components if each.pid is not None]
    yield gauge("component_cpu_seconds", "CPU time of a component and its child processes.", ["component"], cpu)


def _cpu_s(pid: int) -> float:
    """CPU time of a process and its descendants, with that of children that they have waited for."""
    total_s = 0.0
    with suppress(psutil.Error):
        for member in processes.descendants(psutil.Process(pid)):
            with suppress(psutil.Error):
                total_s += sum(member.cpu_times()[:4])
    return total_s
