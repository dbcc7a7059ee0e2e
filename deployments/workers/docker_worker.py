"""A worker that carries out each flow run in a container of its own: Prefect's Docker worker, which also takes away
containers that have ended. With a run every minute they would fill a disk within weeks, and letting Docker remove them
would take their exit code along, by which a lost run is told from one that ended well.
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
TIDY_EVERY_S = 300.0


class TidyDockerWorker(DockerWorker):  # type: ignore[misc]
    """Prefect's Docker worker without what it leaves behind."""

    async def run(
        self,
        flow_run: FlowRun,
        configuration: DockerWorkerJobConfiguration,
        task_status: anyio.abc.TaskStatus[str] | None = None,
    ) -> DockerWorkerResult:
        """Carry the run out and take its container away; what it ended with is read again, as the stock worker may
        have looked before it ended."""
        result = await super().run(flow_run, configuration, task_status)
        code = await asyncio.to_thread(containers.remove, result.identifier.rpartition(":")[2])
        return result if code is None else DockerWorkerResult(status_code=code, identifier=result.identifier)


async def tidy(pool: str) -> None:
    """Take away, again and again, containers whose worker was lost before they ended. An engine that refuses is asked
    again the next time."""
    while True:
        try:
            gone = await asyncio.to_thread(containers.remove_exited, {"io.prefect.work-pool-name": pool}, LOST_AFTER_S)
        except containers.EngineRejected as error:
            print(f"containers of runs that ended without their worker stay for now: {error}")
        else:
            if gone:
                print(f"took away {gone} containers of runs that ended without their worker")
        await asyncio.sleep(TIDY_EVERY_S)


async def serve(pool: str, name: str | None, *, limit: int, with_healthcheck: bool) -> None:
    """Work until told to stop, with *limit* runs at once. Runs that are under way go on by themselves."""
    for number in (signal.SIGTERM, signal.SIGINT):
        # Threads that wait for containers to end would keep the process until these have ended.
        asyncio.get_running_loop().add_signal_handler(number, os._exit, 0)
    given: dict[str, Any] = {"work_pool_name": pool, "limit": limit} | ({"name": name} if name else {})
    tidying = asyncio.create_task(tidy(pool))
    try:
        await TidyDockerWorker(**given).start(with_healthcheck=with_healthcheck)
    finally:
        tidying.cancel()


def main(arguments: Sequence[str] | None = None) -> int:
    """Work until told to stop; the exit status."""
    parser = argparse.ArgumentParser(
        prog="deployments.workers.docker_worker", description=(__doc__ or "").split(":")[0]
    )
    parser.add_argument("--pool", required=True, help="work pool of type docker")
    parser.add_argument("--name", help="the worker's name in the UI")
    parser.add_argument("--limit", type=int, default=max(4, os.cpu_count() or 4), help="runs at once on this machine")
    parser.add_argument("--with-healthcheck", action="store_true", help="answer /health, as Prefect's worker does")
    options = parser.parse_args(arguments)
    containers.engine_version()
    asyncio.run(serve(options.pool, options.name, limit=options.limit, with_healthcheck=options.with_healthcheck))
    return 0


if __name__ == "__main__":
    sys.exit(main())
