"""What Prefect's run executor needs for a forked flow run: starting it, stopping it, and running its hooks after it
has ended."""

import contextlib
import os
import signal
from collections.abc import MutableSet
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
from prefect.runner._process_manager import ProcessHandle

from deployments.workers.fork_client import ForkClient, ForkedProcess

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun, State
    from prefect.runner._control_channel import ControlChannel


@dataclass(frozen=True)
class ForkContext:
    """What a run's processes are forked with: the fork server, environment variables and working directory."""

    forks: ForkClient
    env: dict[str, str]
    cwd: str


class ForkTerminationScope:
    """Stops a forked run: SIGTERM to the run's process, SIGKILL to its process group."""

    wait_after_graceful_kill = True

    def is_alive(self, pid: int) -> bool:
        """Whether the run's process exists."""
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        return True

    def graceful_kill(self, pid: int) -> None:
        """Send SIGTERM to the run."""
        os.kill(pid, signal.SIGTERM)

    def hard_kill(self, pid: int) -> None:
        """Kill the run and the processes that it started."""
        os.killpg(pid, signal.SIGKILL)

    def close(self) -> None:
        """Nothing to close."""


class ForkStarter:
    """Prefect's "process starter" for one flow run: forks it, reports its handle, waits until it exits.

    *running* contains the process meanwhile, so that a stopping worker can signal it.
    """

    def __init__(self, context: ForkContext, control: "ControlChannel", running: MutableSet[ForkedProcess]) -> None:
        self._context, self._control, self._running = context, control, running

    async def start(
        self, flow_run: "FlowRun", task_status: anyio.abc.TaskStatus[ProcessHandle] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Fork a process for *flow_run* and wait until it exits."""
        env = {**self._context.env, "PREFECT__FLOW_RUN_ID": str(flow_run.id)}
        env["PREFECT__ENABLE_CANCELLATION_AND_CRASHED_HOOKS"] = "false"  # ForkedHookRunner runs them
        with contextlib.suppress(RuntimeError):  # no loopback listener: cancellation is by signal only
            port, token = self._control.register(flow_run.id)
            env |= {"PREFECT__CONTROL_PORT": str(port), "PREFECT__CONTROL_TOKEN": token}
        process = await self._context.forks.spawn(env, self._context.cwd)
        self._running.add(process)
        try:
            handle = ProcessHandle(process, termination_scope=ForkTerminationScope())  # type: ignore[arg-type]
            task_status.started(handle)
            await process.wait()
        finally:
            self._running.discard(process)


class ForkedHookRunner:
    """Runs the hooks of an ended flow run in a forked process, so that the worker never imports user code."""

    def __init__(self, context: ForkContext) -> None:
        self._context = context

    async def run_cancellation_hooks(self, flow_run: "FlowRun", state: "State[Any]") -> None:
        """Run the flow's on_cancellation hooks."""
        if state.is_cancelling():
            await self._run("cancellation", flow_run, state)

    async def run_crashed_hooks(self, flow_run: "FlowRun", state: "State[Any]") -> None:
        """Run the flow's on_crashed hooks."""
        if state.is_crashed():
            await self._run("crashed", flow_run, state)

    async def _run(self, kind: str, flow_run: "FlowRun", state: "State[Any]") -> None:
        hooks = {"kind": kind, "flow_run": flow_run.model_dump(mode="json"), "state": state.model_dump(mode="json")}
        process = await self._context.forks.spawn(self._context.env, self._context.cwd, hooks)
        await process.wait()
