"""The worker's side of the fork server: start it, request processes, restart it when it dies.

Independent of Prefect. `deployments.workers.fork_server` describes the protocol.
"""

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

SERVER = Path(__file__).with_name("fork_server.py")
EARLY_DEATH_SECONDS = 5.0
EARLY_DEATHS_ALLOWED = 3
KILLED = -int(signal.SIGKILL)

# Keeps libraries from starting threads at import: a fork would be unsafe.
SINGLE_THREADED = {"OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
QUIET = {"MPLBACKEND": "Agg", "DO_NOT_TRACK": "true", "DVC_NO_ANALYTICS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}


class ForkServerUnavailable(RuntimeError):
    """The fork server died before the process started; nothing of the process has run."""


class ForkedProcess:
    """A child of the fork server. `returncode` is None while it runs, as in `subprocess`."""

    def __init__(self, pid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._reader, self._writer = reader, writer

    async def wait(self) -> int:
        """Wait for the exit code, negative for a signal. A child is killed when its fork server dies."""
        with contextlib.suppress(ConnectionError):
            line = await self._reader.readline()
            if line.startswith(b"exited "):
                self.returncode = int(line.split()[1])
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)  # processes that the child started
            self.returncode = KILLED
        self._writer.close()
        return self.returncode


class ForkClient:
    """Keeps one fork server running. An async context manager; leaving it ends the server."""

    def __init__(self, preload: Sequence[str], logger: logging.Logger | logging.LoggerAdapter[Any]) -> None:
        self.preload = tuple(preload)
        self.process: asyncio.subprocess.Process | None = None
        self._logger = logger
        self._control: socket.socket | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._early_deaths = 0

    @property
    def is_usable(self) -> bool:
        """False after the server has died several times in a row right after its start."""
        return self._early_deaths < EARLY_DEATHS_ALLOWED

    async def __aenter__(self) -> Self:
        await self._start()
        self._keeper = asyncio.create_task(self._keep_alive())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connection: the server exits after its last child. Kill it if that takes over 5 s."""
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        if self._control is not None:
            self._control.close()
        if self.process is not None and self.process.returncode is None:
            try:
                await asyncio.wait_for(self.process.wait(), timeout=5)
            except TimeoutError:
                self.process.kill()
                await self.process.wait()

    async def spawn(self, env: dict[str, str], cwd: str, hooks: dict[str, Any] | None = None) -> ForkedProcess:
        """Fork a process in *cwd* that runs the flow run named in *env*, or only its *hooks*.

        Requests wait while the server imports. A request is repeated once if the server dies before the child has
        started, which is safe: a child reports its start before it does anything else. Raises ForkServerUnavailable.
        """
        request = json.dumps({"env": env, "cwd": cwd, "hooks": hooks}).encode()
        for attempt in (1, 2):
            try:
                return await self._spawn(request)
            except ForkServerUnavailable:
                if attempt == 2:
                    raise
                await asyncio.sleep(0.5)  # _keep_alive starts the next server
        raise AssertionError("unreachable")

    async def _spawn(self, request: bytes) -> ForkedProcess:
        ours, theirs = socket.socketpair()
        request_file = os.memfd_create("request")
        try:
            with os.fdopen(request_file, "wb", closefd=False) as file:
                file.write(request)
            if self._control is None:
                raise ForkServerUnavailable("the fork server is not running")
            socket.send_fds(self._control, [b"fork"], [request_file, theirs.fileno()])
        except OSError as error:
            ours.close()
            raise ForkServerUnavailable(f"the fork server does not accept requests: {error}") from error
        finally:
            os.close(request_file)
            theirs.close()
        ours.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=ours)
        with contextlib.suppress(ConnectionError):
            line = await reader.readline()
            if line.startswith(b"started "):
                return ForkedProcess(int(line.split()[1]), reader, writer)
        writer.close()
        raise ForkServerUnavailable("the fork server died before the process had started")

    async def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        env = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        try:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                str(SERVER),
                str(theirs.fileno()),
                *self.preload,
                stdin=asyncio.subprocess.DEVNULL,
                env=env | SINGLE_THREADED | QUIET,
                pass_fds=[theirs.fileno()],
            )
        finally:
            theirs.close()
        ours.setblocking(False)
        self._control = ours

    async def _keep_alive(self) -> None:
        """Log what each server has imported, and start the next one when it dies."""
        while self.process is not None and self._control is not None:
            started = time.monotonic()
            await self._report_ready(self._control)
            code = await self.process.wait()
            self._control.close()
            lived = time.monotonic() - started
            self._early_deaths = self._early_deaths + 1 if lived < EARLY_DEATH_SECONDS else 0
            self._logger.error("The fork server died with exit code %s, and its flow runs with it. Restarting.", code)
            if not self.is_usable:
                self._logger.error(
                    "It died %s times right after its start: flow runs start without it, slowly.", self._early_deaths
                )
                return
            await self._start()

    async def _report_ready(self, control: socket.socket) -> None:
        with contextlib.suppress(OSError):
            message = await asyncio.get_running_loop().sock_recv(control, 1 << 16)
            if not message:
                return
            ready = json.loads(message)["ready"]
            for module, reason in ready["missing"].items():
                self._logger.warning("Preload module %r could not be imported (%s).", module, reason)
            if ready["threads"] != 1:
                self._logger.warning("The fork server has %s threads; forking is safe with 1 only.", ready["threads"])
            self._logger.info("Fork server %s is warm after %s s.", self.process and self.process.pid, ready["seconds"])
