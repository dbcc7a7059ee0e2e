"""A Prefect worker that forks flow runs from a process with the heavy modules imported.

    python -m deployments.workers.warm_worker --pool NAME [--name WORKER] [--preload MODULE …]

It serves ordinary work pools of type "process"; the stock worker can serve the same pool instead
(docs/decisions/0002-warm-worker.md). `fork_server` and `fork_client` do the forking. Linux only, and bound to the
pinned Prefect: it uses private modules of Prefect.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import time
from abc import ABC
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
import httpx
from prefect.context import refresh_global_settings_context
from prefect.logging import get_logger
from prefect.runner._flow_run_executor import FlowRunExecutionResult, FlowRunExecutorContext
from prefect.runner._process_manager import ProcessHandle
from prefect.settings import get_current_settings
from prefect.utilities.processutils import command_from_string, sanitize_subprocess_env
from prefect.workers.process import ProcessJobConfiguration, ProcessWorker, ProcessWorkerResult

from deployments.workers.fork_client import ForkClient, ForkedProcess
from deployments.workers.forked_run import ForkContext, ForkedHookRunner, ForkStarter

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

PREFECT_MODULES = (
    "prefect.flow_engine",
    "prefect.task_engine",
    "prefect.deployments.steps.core",
    "prefect.deployments.steps.pull",
    "prefect.runner.storage",
    "prefect.runner._hook_runner",
    "prefect.events",
    "prefect.artifacts",
)
PRELOAD = (
    *("pandas", "pyarrow.parquet", "sklearn.ensemble", "sklearn.pipeline", "sklearn.compose", "threadpoolctl"),
    *("mlflow", "mlflow.sklearn", "evidently", "evidently.metrics", "evidently.presets", "dvc.repo", "skops.io"),
    *("sqlalchemy", "psycopg", "matplotlib.pyplot"),
)
# Defaults; variables of the environment take precedence. Prefetched runs would start early.
WORKER_SETTINGS = {
    "PREFECT_WORKER_QUERY_SECONDS": "0.3",
    "PREFECT_WORKER_PREFETCH_SECONDS": "1",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
}
FINISH_SECONDS = 5.0
TERMINATE_SECONDS = 5.0
REPORT_SECONDS = 3.0
OUTAGE_PAUSE_SECONDS = 2.0


class WarmWorker(ProcessWorker, ABC):
    """A process worker that forks. Runs with a `command` of their own are started as by the stock worker.

    `ABC` only keeps the class out of Prefect's registry, where "process" is the stock worker.
    """

    def __init__(self, *args: Any, forks: ForkClient, **kwargs: Any) -> None:
        """The caller starts and ends *forks*, which must outlive the worker's teardown."""
        super().__init__(*args, **kwargs)
        self.forks = forks
        self.running: set[ForkedProcess] = set()
        self.active = 0
        self.draining = False

    async def run(
        self,
        flow_run: "FlowRun",
        configuration: ProcessJobConfiguration,
        task_status: anyio.abc.TaskStatus[int] | None = None,
    ) -> ProcessWorkerResult:
        """Fork the run and wait for it; its exit code decides, as in the stock worker."""
        self.active += 1
        try:
            if not self.forks.is_usable or not runs_engine(configuration):
                return await super().run(flow_run, configuration, task_status)
            result = await self._run_forked(flow_run, configuration, task_status or anyio.TASK_STATUS_IGNORED)
        finally:
            self.active -= 1
        if result is None or result.status_code is None:
            raise RuntimeError("The flow run's process could not be started.")
        return ProcessWorkerResult(status_code=result.status_code, identifier=str(result.handle.pid))

    async def _run_forked(
        self, flow_run: "FlowRun", configuration: ProcessJobConfiguration, started: anyio.abc.TaskStatus[int]
    ) -> FlowRunExecutionResult | None:
        result: FlowRunExecutionResult | None = None
        async with contextlib.AsyncExitStack() as stack:
            cwd = str(configuration.working_dir or stack.enter_context(tempfile.TemporaryDirectory(suffix="prefect")))
            fork_context = ForkContext(self.forks, process_environment(configuration), cwd)
            context = await stack.enter_async_context(FlowRunExecutorContext())
            executor = context.create_executor(
                flow_run,
                ForkStarter(fork_context, context.control_channel, self.running),
                propose_submitting=False,  # the worker has proposed it already
                hook_runner=ForkedHookRunner(fork_context),
            )

            async def execute(*, task_status: anyio.abc.TaskStatus[ProcessHandle]) -> None:
                nonlocal result
                result = await executor.submit(task_status=task_status)

            async with anyio.create_task_group() as group:
                handle: ProcessHandle = await group.start(execute)
                started.started(handle.pid or 0)
        return result

    async def get_and_submit_flow_runs(self) -> list["FlowRun"]:
        """Poll for runs. An outage of the server is waited out; the stock worker would end, and its runs with it."""
        if self.draining:
            return []
        try:
            return await super().get_and_submit_flow_runs()
        except httpx.HTTPError as error:
            await self._wait_out_outage(error)
            return []

    async def _sync_and_initialize(self) -> None:
        try:
            await super()._sync_and_initialize()
        except httpx.HTTPError as error:
            await self._wait_out_outage(error)

    async def _wait_out_outage(self, error: httpx.HTTPError) -> None:
        if isinstance(error, httpx.HTTPStatusError) and error.response.status_code < 500:
            raise error
        self._logger.warning("The Prefect server does not answer (%r); retrying.", error)
        await asyncio.sleep(OUTAGE_PAUSE_SECONDS)

    async def drain(self, finish_seconds: float) -> None:
        """Accept no new runs; wait for running ones, then send SIGTERM, then SIGKILL, and report each."""
        self.draining = True
        await self._until_idle(finish_seconds)
        self._signal_all(signal.SIGTERM)
        await self._until_idle(TERMINATE_SECONDS if self.active else 0)
        self._signal_all(signal.SIGKILL)
        await self._until_idle(REPORT_SECONDS)

    async def _until_idle(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self.active and time.monotonic() < deadline:  # noqa: ASYNC110  # the deadline ends it as well
            await asyncio.sleep(0.05)

    def _signal_all(self, number: signal.Signals) -> None:
        for process in list(self.running):
            with contextlib.suppress(ProcessLookupError):
                if number == signal.SIGKILL:
                    os.killpg(process.pid, number)
                else:
                    os.kill(process.pid, number)


def runs_engine(configuration: ProcessJobConfiguration) -> bool:
    """Whether the run's command is Prefect's engine on this Python, so that a fork can replace it."""
    command = command_from_string(configuration.command) if configuration.command else []
    return command in ([], [sys.executable, "-m", "prefect.engine"])


def process_environment(configuration: ProcessJobConfiguration) -> dict[str, str]:
    """The run's variables: Prefect profile, overridden by the worker's, overridden by the run's own."""
    profile = get_current_settings().to_environment_variables(exclude_unset=True)
    return dict(sanitize_subprocess_env({**profile, **configuration.env}))


async def serve(pool: str, name: str | None, preload: Sequence[str], finish_seconds: float) -> None:
    """Work until SIGTERM or SIGINT; a second signal ends the wait for running flow runs."""
    stop_requested, stop_now = asyncio.Event(), asyncio.Event()

    def stop() -> None:
        (stop_now if stop_requested.is_set() else stop_requested).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)

    async def drain_and_cancel(worker: WarmWorker, scope: anyio.CancelScope) -> None:
        await stop_requested.wait()
        drain = asyncio.create_task(worker.drain(finish_seconds))
        await asyncio.wait([drain, asyncio.create_task(stop_now.wait())], return_when=asyncio.FIRST_COMPLETED)
        if not drain.done():
            drain.cancel()
            await worker.drain(0)
        scope.cancel()

    async with ForkClient([*PREFECT_MODULES, *preload], get_logger("warm-worker")) as forks:
        worker = WarmWorker(pool, name=name, forks=forks)
        async with anyio.create_task_group() as group:
            group.start_soon(drain_and_cancel, worker, group.cancel_scope)
            await worker.start()
            group.cancel_scope.cancel()


def main(arguments: Sequence[str] | None = None) -> int:
    """Work until a signal to stop; return the exit status."""
    parser = argparse.ArgumentParser(prog="deployments.workers.warm_worker", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--pool", required=True, help="work pool of type process")
    parser.add_argument("--name", help="the worker's name in the UI")
    parser.add_argument("--preload", nargs="*", default=PRELOAD, help="modules to import before the first fork")
    parser.add_argument(
        "--finish-seconds",
        type=float,
        default=FINISH_SECONDS,
        help="seconds that running flow runs get when the worker is stopped",
    )
    options = parser.parse_args(arguments)
    for name, value in WORKER_SETTINGS.items():
        os.environ.setdefault(name, value)
    refresh_global_settings_context()
    asyncio.run(serve(options.pool, options.name, options.preload, options.finish_seconds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
