"""Prefect's Docker worker, which runs each flow run in a container, and also removes exited containers.

With a run every minute they would fill the disk within weeks. Docker's own removal would lose the exit code, by which
the worker recognizes crashed runs.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import anyio
from prefect_docker.worker import DockerWorker, DockerWorkerJobConfiguration, DockerWorkerResult

from tasks import containers

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

LOST_AFTER_S = 600.0
CLEANUP_INTERVAL_S = 300.0


class CleaningDockerWorker(DockerWorker):  # type: ignore[misc]
    """A Docker worker that removes a run's container when the run has ended."""

    async def run(
        self,
        flow_run: FlowRun,
        configuration: DockerWorkerJobConfiguration,
        task_status: anyio.abc.TaskStatus[str] | None = None,
    ) -> DockerWorkerResult:
        """Execute the run and remove its container. The exit code is read again, as the stock worker may read early."""
        result = await super().run(flow_run, configuration, task_status)
        code = await asyncio.to_thread(containers.remove, result.identifier.rpartition(":")[2])
        return result if code is None else DockerWorkerResult(status_code=code, identifier=result.identifier)


async def remove_lost_containers(pool: str) -> None:
    """Periodically remove exited containers whose worker was lost, also after errors of Docker."""
    labels = {"io.prefect.work-pool-name": pool}
    while True:
        try:
            removed = await asyncio.to_thread(containers.remove_exited, labels, LOST_AFTER_S)
        except containers.EngineRejected as error:
            print(f"exited containers of lost workers are not removed yet: {error}")
        else:
            if removed:
                print(f"removed {removed} exited containers of lost workers")
        await asyncio.sleep(CLEANUP_INTERVAL_S)


async def serve(pool: str, name: str | None, *, limit: int, with_healthcheck: bool) -> None:
    """Work until a signal to stop, with up to *limit* concurrent runs. Running containers are left running."""
    for number in (signal.SIGTERM, signal.SIGINT):
        # A normal exit would wait for the threads that wait for containers.
        asyncio.get_running_loop().add_signal_handler(number, os._exit, 0)
    options: dict[str, Any] = {"work_pool_name": pool, "limit": limit} | ({"name": name} if name else {})
    cleanup = asyncio.create_task(remove_lost_containers(pool))
    try:
        await CleaningDockerWorker(**options).start(with_healthcheck=with_healthcheck)
    finally:
        cleanup.cancel()


def main(arguments: Sequence[str] | None = None) -> int:
    """Work until a signal to stop; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="deployments.workers.docker_worker", description=(__doc__ or "").split(":")[0]
    )
    parser.add_argument("--pool", required=True, help="work pool of type docker")
    parser.add_argument("--name", help="the worker's name in the UI")
    parser.add_argument("--limit", type=int, default=max(4, os.cpu_count() or 4), help="concurrent runs on this host")
    parser.add_argument("--with-healthcheck", action="store_true", help="answer /health, as Prefect's worker does")
    options = parser.parse_args(arguments)
    containers.engine_version()
    asyncio.run(serve(options.pool, options.name, limit=options.limit, with_healthcheck=options.with_healthcheck))
    return 0


if __name__ == "__main__":
    sys.exit(main())
