"""The parts that Prefect's run executor wants from us when a run is a fork: how to start it, how to stop it,
and how to run its hooks once it is dead."""

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
class Surroundings:
    """Where a run's processes come from and what they find: the fork server, their variables, their folder."""

    forks: ForkClient
    env: dict[str, str]
    cwd: str


class ForkScope:
    """How to stop a forked run: ask the run itself politely, kill it with everything it has started."""

    wait_after_graceful_kill = True

    def is_alive(self, pid: int) -> bool:
        """Whether the run's process is there."""
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        return True

    def graceful_kill(self, pid: int) -> None:
        """Ask the run to end."""
        os.kill(pid, signal.SIGTERM)

    def hard_kill(self, pid: int) -> None:
        """End the run and what it started."""
        os.killpg(pid, signal.SIGKILL)

    def close(self) -> None:
        """Nothing to let go of."""


class ForkStarter:
    """Prefect's "process starter" for one run: fork it, hand over its handle, stay until it has exited.

    *running* holds the process meanwhile, so that a worker that stops can reach it.
    """

    def __init__(
        self, surroundings: Surroundings, control: "ControlChannel", running: MutableSet[ForkedProcess]
    ) -> None:
        self._surroundings, self._control, self._running = surroundings, control, running

    async def start(
        self, flow_run: "FlowRun", task_status: anyio.abc.TaskStatus[ProcessHandle] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Fork a process for *flow_run* and wait until it has ended."""
        env = {**self._surroundings.env, "PREFECT__FLOW_RUN_ID": str(flow_run.id)}
        env["PREFECT__ENABLE_CANCELLATION_AND_CRASHED_HOOKS"] = "false"  # ForkedHooks runs them
        with contextlib.suppress(RuntimeError):  # no loopback listener: cancelled by signal alone
            port, token = self._control.register(flow_run.id)
            env |= {"PREFECT__CONTROL_PORT": str(port), "PREFECT__CONTROL_TOKEN": token}
        process = await self._surroundings.forks.spawn(env, self._surroundings.cwd)
        self._running.add(process)
        try:
            task_status.started(ProcessHandle(process, termination_scope=ForkScope()))  # type: ignore[arg-type]
            await process.wait()
        finally:
            self._running.discard(process)


class ForkedHooks:
    """Runs a dead run's hooks in a process like its own, so that no user code is loaded into the worker."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._surroundings = surroundings

    async def run_cancellation_hooks(self, flow_run: "FlowRun", state: "State[Any]") -> None:
        """What the flow wants done when it is cancelled."""
        if state.is_cancelling():
            await self._run("cancellation", flow_run, state)

    async def run_crashed_hooks(self, flow_run: "FlowRun", state: "State[Any]") -> None:
        """What the flow wants done when it has crashed."""
        if state.is_crashed():
            await self._run("crashed", flow_run, state)

    async def _run(self, kind: str, flow_run: "FlowRun", state: "State[Any]") -> None:
        hooks = {"kind": kind, "flow_run": flow_run.model_dump(mode="json"), "state": state.model_dump(mode="json")}
        process = await self._surroundings.forks.spawn(self._surroundings.env, self._surroundings.cwd, hooks)
        await process.wait()
