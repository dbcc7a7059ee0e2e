"""A process that loads the heavy modules once and forks itself for every flow run.

It knows sockets, signals and `fork`; what a flow run is, Prefect's engine knows, and when one is due, the
worker (`deployments.workers.warm_worker`) knows. Started by path with `-P`, so nothing of this project is imported
here and a flow finds its own code first. It never starts a thread: a fork copies only the calling thread,
and a lock that another one holds would stay locked in the child for ever.

Protocol. The worker holds the other end of a SOCK_SEQPACKET pair whose descriptor is argv[1]. Towards the
worker goes one JSON message, `{"ready": {...}}`, after the imports. From the worker comes one message per
fork, carrying two descriptors: a memory file with the JSON request, and a stream. On the stream the child
says `started PID`, before it does anything else, and the server `exited CODE`. End of file on the pair means
that the worker is gone: the server waits for its children and exits.
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

# The worker starts the server with one thread for linear algebra; children get their cores back.
BLAS_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")

# Event loops that libraries make while they are imported (Evidently does). Their epoll and wake-up sockets would
# be shared by all children, which would wake and miss each other; so they are closed here and opened there.
IDLE_LOOPS: list[asyncio.BaseEventLoop] = []


@dataclass
class ForkServer:
    """State of the serving loop: the worker's socket and the stream of every living child, by pid."""

    worker: socket.socket
    children: dict[int, socket.socket] = field(default_factory=dict)
    draining: bool = False
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    wake_pipe: tuple[int, int] = field(default_factory=os.pipe)

    def serve(self) -> None:
        """Fork on request until the worker is gone (or SIGTERM came) and the last child has exited."""
        wake_read, wake_write = self.wake_pipe
        for end in self.wake_pipe:
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "draining", True))
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the worker decides
        self.selector.register(self.worker, selectors.EVENT_READ)
        self.selector.register(wake_read, selectors.EVENT_READ)
        while not self.draining or self.children:
            for key, _ in self.selector.select():
                if key.fileobj is self.worker:
                    self._answer()
                else:
                    with contextlib.suppress(BlockingIOError):
                        os.read(wake_read, 4096)
            self._reap()
            if self.draining and self.worker in self.selector.get_map():
                self.selector.unregister(self.worker)

    def _answer(self) -> None:
        """Take one request and fork for it; an empty message is the end of the worker."""
        message, descriptors, _, _ = socket.recv_fds(self.worker, 16, 2)
        if not message:
            self.draining = True
            return
        request_file, stream = descriptors[0], socket.socket(fileno=descriptors[1])
        signal.pthread_sigmask(signal.SIG_BLOCK, OWN_SIGNALS)  # no handler of ours may run in the child
        server_pid = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._forget()
            run_child(request_file, stream, server_pid)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, OWN_SIGNALS)
        os.close(request_file)
        self.children[pid] = stream

    def _forget(self) -> None:
        """In the child: let go of everything that belongs to the server and to the other children."""
        signal.set_wakeup_fd(-1)
        self.selector.close()
        self.worker.close()
        for end in self.wake_pipe:
            os.close(end)
        for stream in self.children.values():
            stream.close()
        self.children.clear()

    def _reap(self) -> None:
        """Report children that have exited, after killing what they left behind in their process group.

        The zombie still holds its pid while the group is killed, so the number cannot mean anybody else.
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
                with contextlib.suppress(OSError):  # the worker has gone before its child
                    stream.sendall(b"exited %d\n" % os.waitstatus_to_exitcode(status))
                stream.close()


def run_child(request_file: int, stream: socket.socket, server_pid: int) -> NoReturn:
    """Become the requested process; never returns to the server's stack."""
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
        enter_surroundings(request["env"], request["cwd"])
        code = run_hooks(request["hooks"]) if request["hooks"] else run_engine()
    except BaseException:  # noqa: BLE001 - the child ends here whatever it was
        traceback.print_exc()
    leave(code)


def die_with_parent(parent_pid: int) -> None:
    """Ask the kernel to kill this process with its parent, so that no run outlives the fork server."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it died before we could ask
        os._exit(1)


def enter_surroundings(env: dict[str, str], cwd: str) -> None:
    """Make the process look as if it had been started as `python -m …` with *env* in *cwd*."""
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
        spread_threads(env)
    if "prefect" in sys.modules:
        import prefect.context
        from prefect.logging.configuration import setup_logging

        prefect.context.refresh_global_settings_context()  # read at import, from the server's environment
        setup_logging(incremental=False)


def python_path(env: dict[str, str]) -> list[str]:
    """The folders that *env* adds to the import path."""
    return [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]


def spread_threads(env: dict[str, str]) -> None:
    """Give linear algebra and OpenMP the threads that *env* allows, by default one per core.

    Both libraries read the variables when they are loaded, which was before this run existed.
    """
    from threadpoolctl import threadpool_limits

    wanted = {name: int(env[name]) for name in BLAS_VARIABLES if env.get(name, "").isdecimal()}
    cores = len(os.sched_getaffinity(0))
    threadpool_limits(wanted.get("OPENBLAS_NUM_THREADS", wanted.get("OMP_NUM_THREADS", cores)), user_api="blas")
    if "OMP_NUM_THREADS" in wanted:
        threadpool_limits(wanted["OMP_NUM_THREADS"], user_api="openmp")


def run_engine() -> int:
    """Run the flow run named in the environment as `python -m prefect.engine` would; its exit code."""
    sys.argv = ["prefect.engine"]
    sys.modules.pop("prefect.engine", None)  # a module that is loaded already makes runpy warn
    try:
        runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        print(stop.code, file=sys.stderr)
        return 1
    return 0


def run_hooks(hooks: dict[str, Any]) -> int:
    """Run a flow's on_crashed or on_cancellation hooks, whose own process is gone."""
    from prefect.client.schemas.objects import FlowRun, State
    from prefect.flows import load_flow_from_flow_run
    from prefect.runner._hook_runner import HookRunner

    runner = HookRunner(resolve_flow=load_flow_from_flow_run)
    flow_run = FlowRun.model_validate(hooks["flow_run"])
    state: State[Any] = State.model_validate(hooks["state"])
    run = runner.run_crashed_hooks if hooks["kind"] == "crashed" else runner.run_cancellation_hooks
    asyncio.run(run(flow_run, state))
    return 0


def leave(code: int) -> NoReturn:
    """Exit like the interpreter (threads, exit functions, streams), without tearing the inherited heap apart."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    except BaseException:  # noqa: BLE001 - the child ends here whatever it was
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def load(modules: list[str]) -> dict[str, Any]:
    """Import *modules* and report how it went: seconds, threads alive, and which could not be imported."""
    started = time.monotonic()
    missing: dict[str, str] = {}
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:  # noqa: BLE001 - a broken optional library must not cost the runs that do without it
            missing[module] = f"{type(error).__name__}: {error}"
    gc.collect()
    IDLE_LOOPS.extend(thing for thing in gc.get_objects() if isinstance(thing, asyncio.BaseEventLoop))
    for loop in IDLE_LOOPS:
        loop.close()
    gc.freeze()  # the collector would write to, and so copy, every page it visits
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
