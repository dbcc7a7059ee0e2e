"""A process that imports the heavy modules once and forks for every flow run.

The worker (`deployments.workers.warm_worker`) requests the forks. This script is started by path with `-P`: it
imports nothing of this project, and a flow run's own code comes first on the import path. It never starts a
thread, because a fork copies only the calling thread and a lock held by another one would stay locked in the child.

Protocol: argv[1] is the descriptor of one end of a SOCK_SEQPACKET pair; the worker holds the other end. After the
imports the server sends one JSON message, `{"ready": {...}}`. The worker sends one message per fork with two
descriptors: a memory file with the JSON request, and a stream. The child first writes `started PID` to the stream;
the server writes `exited CODE` when the child has ended. End of file on the pair means that the worker has ended:
the server waits for its children and exits.
"""

import asyncio
import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import random
import runpy
import selectors
import signal
import socket
import sys
import threading
import time
import traceback
from dataclasses import dataclass, field
from typing import Any, NoReturn

MESSAGE_BYTES = 1 << 16
OWN_SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT)
PR_SET_PDEATHSIG = 1

# The worker starts the server with one BLAS thread; `restore_threads` undoes that in children.
BLAS_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")

# Event loops that libraries create at import (Evidently does). Children must not share their epoll and wake-up
# sockets, so the server closes the loops and each child opens them again.
IDLE_LOOPS: list[asyncio.BaseEventLoop] = []


@dataclass
class ForkServer:
    """The serving loop: the worker's socket, and each running child's stream by pid."""

    worker: socket.socket
    children: dict[int, socket.socket] = field(default_factory=dict)
    draining: bool = False
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    wake_pipe: tuple[int, int] = field(default_factory=os.pipe)

    def serve(self) -> None:
        """Fork on request until the worker has ended or SIGTERM arrived, and all children have exited."""
        wake_read, wake_write = self.wake_pipe
        for end in self.wake_pipe:
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "draining", True))
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C signals the whole process group; the worker handles it
        self.selector.register(self.worker, selectors.EVENT_READ)
        self.selector.register(wake_read, selectors.EVENT_READ)
        while not self.draining or self.children:
            for key, _ in self.selector.select():
                if key.fileobj is self.worker:
                    self._handle_request()
                else:
                    with contextlib.suppress(BlockingIOError):
                        os.read(wake_read, 4096)
            self._reap()
            if self.draining and self.worker in self.selector.get_map():
                self.selector.unregister(self.worker)

    def _handle_request(self) -> None:
        """Receive one request and fork for it. An empty message means that the worker has ended."""
        message, descriptors, _, _ = socket.recv_fds(self.worker, 16, 2)
        if not message:
            self.draining = True
            return
        request_file, stream = descriptors[0], socket.socket(fileno=descriptors[1])
        signal.pthread_sigmask(signal.SIG_BLOCK, OWN_SIGNALS)  # no handler of ours may run in the child
        server_pid = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._close_inherited()
            run_child(request_file, stream, server_pid)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, OWN_SIGNALS)
        os.close(request_file)
        self.children[pid] = stream

    def _close_inherited(self) -> None:
        """In the child: close what belongs to the server and to other children."""
        signal.set_wakeup_fd(-1)
        self.selector.close()
        self.worker.close()
        for end in self.wake_pipe:
            os.close(end)
        for stream in self.children.values():
            stream.close()
        self.children.clear()

    def _reap(self) -> None:
        """Report exited children, after killing the rest of their process groups.

        A group is killed before its leader is reaped: until then the pid cannot be reused.
        """
        while self.children:
            exited = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if exited is None:
                return
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(exited.si_pid, signal.SIGKILL)
            _, status = os.waitpid(exited.si_pid, 0)
            stream = self.children.pop(exited.si_pid, None)
            if stream is not None:
                with contextlib.suppress(OSError):  # the worker ended first
                    stream.sendall(b"exited %d\n" % os.waitstatus_to_exitcode(status))
                stream.close()


def run_child(request_file: int, stream: socket.socket, server_pid: int) -> NoReturn:
    """Become the requested process; does not return."""
    code = 1
    try:
        for number in OWN_SIGNALS:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        os.setsid()
        die_with_parent(server_pid)
        stream.sendall(b"started %d\n" % os.getpid())
        stream.close()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, OWN_SIGNALS)
        with os.fdopen(request_file, "rb") as file:
            file.seek(0)
            request = json.load(file)
        enter_environment(request["env"], request["cwd"])
        code = run_hooks(request["hooks"]) if request["hooks"] else run_engine()
    except BaseException:  # noqa: BLE001 - nothing may return to the server's loop
        traceback.print_exc()
    exit_process(code)


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent ends, so that no run outlives the fork server."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # the parent ended before the call
        os._exit(1)


def enter_environment(env: dict[str, str], cwd: str) -> None:
    """Set up the process as `python -m …` would start with *env* in *cwd*."""
    gc.enable()
    inherited_paths = set(python_path(dict(os.environ)))
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    time.tzset()
    sys.path[:] = [cwd, *python_path(env), *(p for p in sys.path if p not in inherited_paths)]
    importlib.invalidate_caches()
    for loop in IDLE_LOOPS:
        loop.__init__()  # type: ignore[misc]
    random.seed()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
        restore_threads(env)
    if "prefect" in sys.modules:
        import prefect.context
        from prefect.logging.configuration import setup_logging

        prefect.context.refresh_global_settings_context()  # it was read at import from the server's environment
        setup_logging(incremental=False)


def python_path(env: dict[str, str]) -> list[str]:
    """The folders of PYTHONPATH in *env*."""
    return [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]


def restore_threads(env: dict[str, str]) -> None:
    """Give BLAS and OpenMP the threads that *env* allows, by default one per core.

    The libraries read these variables when they are loaded, so setting them in the child has no effect.
    """
    from threadpoolctl import threadpool_limits

    wanted = {name: int(env[name]) for name in BLAS_VARIABLES if env.get(name, "").isdecimal()}
    cores = len(os.sched_getaffinity(0))
    threadpool_limits(wanted.get("OPENBLAS_NUM_THREADS", wanted.get("OMP_NUM_THREADS", cores)), user_api="blas")
    if "OMP_NUM_THREADS" in wanted:
        threadpool_limits(wanted["OMP_NUM_THREADS"], user_api="openmp")


def run_engine() -> int:
    """Run the flow run of the environment as `python -m prefect.engine` would; return the exit code."""
    sys.argv = ["prefect.engine"]
    sys.modules.pop("prefect.engine", None)  # runpy warns about a module that is already imported
    try:
        runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        print(stop.code, file=sys.stderr)
        return 1
    return 0


def run_hooks(hooks: dict[str, Any]) -> int:
    """Run the on_crashed or on_cancellation hooks of a flow run whose process has ended; return the exit code."""
    from prefect.client.schemas.objects import FlowRun, State
    from prefect.flows import load_flow_from_flow_run
    from prefect.runner._hook_runner import HookRunner

    runner = HookRunner(resolve_flow=load_flow_from_flow_run)
    flow_run = FlowRun.model_validate(hooks["flow_run"])
    state: State[Any] = State.model_validate(hooks["state"])
    run = runner.run_crashed_hooks if hooks["kind"] == "crashed" else runner.run_cancellation_hooks
    asyncio.run(run(flow_run, state))
    return 0


def exit_process(code: int) -> NoReturn:
    """Exit as the interpreter does (join threads, atexit, flush), but without finalizing the inherited heap."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    except BaseException:  # noqa: BLE001 - nothing may return to the server's loop
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def load(modules: list[str]) -> dict[str, Any]:
    """Import *modules*, and prepare the heap for forks.

    Returns the duration in seconds, the number of threads, and the errors of modules that could not be imported.
    """
    started = time.monotonic()
    missing: dict[str, str] = {}
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:  # noqa: BLE001 - runs that do not need this module must still work
            missing[module] = f"{type(error).__name__}: {error}"
    gc.collect()
    IDLE_LOOPS.extend(found for found in gc.get_objects() if isinstance(found, asyncio.BaseEventLoop))
    for loop in IDLE_LOOPS:
        loop.close()
    gc.freeze()  # a collection would write to shared pages and so copy them
    gc.disable()
    return {
        "seconds": round(time.monotonic() - started, 2),
        "threads": len(os.listdir("/proc/self/task")),
        "missing": missing,
    }


def main(arguments: list[str]) -> None:
    """`fork_server.py FD MODULE…`"""
    worker = socket.socket(fileno=int(arguments[0]))
    report = load(arguments[1:])
    with contextlib.suppress(BrokenPipeError):
        worker.sendall(json.dumps({"ready": report}).encode()[:MESSAGE_BYTES])
    ForkServer(worker).serve()


if __name__ == "__main__":
    main(sys.argv[1:])
