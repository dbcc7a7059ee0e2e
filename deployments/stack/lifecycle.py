"""Up, down and status: the three things that people ask of a stack. The work is the supervisor's; this is
the order around it: look, clear leftovers, check ports, prepare, hand over, watch."""

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from deployments.stack import components, databases, postgres, probes, processes, report
from deployments.stack.plan import Component, Plan, Probe, StackError
from deployments.stack.ports import require_free
from deployments.stack.report import ComponentStatus, StackStatus
from deployments.stack.supervisor import LOCK_TAKEN
from trimtab.settings import Settings

Echo = Callable[[str], None]
_READY_WITHIN_S = 180.0
_ATTEMPTS = 3
_STOP_WITHIN_S = 60.0


def up(
    settings: Settings, *, echo: Echo, only: Collection[str] | None = None
) -> StackStatus:
    """Start what is not up and wait until every part is healthy; if all is up already, change nothing.

    *only* names the parts to start (and to wait for); the default is all of them.
    Raises StackError when a port is taken, a part cannot start, or the running stack has other settings.
    What this call has started is stopped again when it fails or is interrupted.
    """
    settings.state.mkdir(parents=True, exist_ok=True)
    plan = components.plan(settings, only=only)
    with _alone(settings.state, echo):
        record = report.recorded(settings.state)
        started = report.supervisor_pid(record) is None
        if started:
            _clear(record)
            require_free(components.ports(settings))
            _require_external(settings)
            _prepare(settings, echo)
            _start(plan)
        else:
            _require_same(plan, record, settings.state)
    try:
        _watch(plan, settings.state, echo if started else _quiet)
    except BaseException:
        if started:
            down(settings, echo=echo)
        raise
    return status(settings)


def down(settings: Settings, *, echo: Echo) -> None:
    """Stop everything that `up` started here, and nothing else. Does no harm where nothing runs."""
    record = report.recorded(settings.state)
    pid = report.supervisor_pid(record)
    if pid is not None:
        echo("stopping")
        supervisor = psutil.Process(pid)
        with suppress(psutil.Error):
            supervisor.terminate()
            supervisor.wait(_STOP_WITHIN_S)
    _clear(report.recorded(settings.state))
    echo("stopped" if pid is not None else "nothing was running")


def status(settings: Settings) -> StackStatus:
    """How every part is now."""
    record = report.recorded(settings.state)
    pid = report.supervisor_pid(record)
    parts = {
        name: report.component(name, raw, supervised=pid is not None, weigh=True)
        for name, raw in record.get("components", {}).items()
    }
    for part in components.plan(settings).components:
        parts.setdefault(
            part.name,
            ComponentStatus(name=part.name, state="stopped", url=part.url or None),
        )
    for name, url in components.external(settings).items():
        trouble = _external_trouble(settings, name)
        parts[name] = ComponentStatus(
            name=name,
            state="unhealthy" if trouble else "external",
            url=url,
            last_error=trouble,
        )
    weight = (
        round(processes.memory_mb(psutil.Process(pid), alone=True), 1) if pid else None
    )
    return StackStatus(
        supervisor_pid=pid, supervisor_mb=weight, components=list(parts.values())
    )


@contextmanager
def _alone(state: Path, echo: Echo) -> Iterator[None]:
    """One `up` at a time prepares and starts; a second one waits for it here."""
    with (state / "up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            echo("another `trimtab up` is at work; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _clear(record: dict[str, object]) -> None:
    """End what a supervisor has left behind, recognised by birth and by the mark in its environment."""
    leftovers = report.leftovers(record)
    processes.end(leftovers, grace_s=5.0)


def _require_external(settings: Settings) -> None:
    for name, url in components.external(settings).items():
        trouble = _external_trouble(settings, name)
        if trouble:
            raise StackError(
                f"{name} at {url} (TRIMTAB_{name.upper()}_URL) is not healthy: {trouble}"
            )


def _external_trouble(settings: Settings, name: str) -> str | None:
    if name == "postgres":
        return databases.reach(settings)
    part = Component(name, (), Probe("http", components.health_url(settings, name)))
    return probes.trouble(part, 0.0, timeout_s=5.0)


def _prepare(settings: Settings, echo: Echo) -> None:
    if settings.postgres_url is None:
        postgres.prepare(settings, echo)
    else:
        databases.prepare(settings)


def _start(plan: Plan) -> None:
    """Hand the plan to a supervisor that outlives us, and wait until it has written its first word."""
    logs = plan.state / "logs"
    logs.mkdir(exist_ok=True)
    (plan.state / "stack.json").unlink(missing_ok=True)
    path = os.pathsep.join(
        filter(None, [str(components.CODE), os.environ.get("PYTHONPATH", "")])
    )
    with (logs / "supervisor.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "deployments.stack.supervisor"],
            env={**os.environ, "PYTHONPATH": path},
            cwd=plan.state,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    if process.stdin is None:
        raise StackError("the supervisor has no standard input")
    with suppress(BrokenPipeError), process.stdin:
        process.stdin.write(plan.dumps().encode())
    while not (plan.state / "stack.json").exists():
        code = process.poll()
        if code == LOCK_TAKEN:
            raise StackError(
                f"a stack is still stopping in {plan.state}; try again in a moment"
            )
        if code is not None:
            raise StackError(
                f"the supervisor ended with exit code {code}; see {logs / 'supervisor.log'}"
            )
        time.sleep(0.02)


def _require_same(plan: Plan, record: dict[str, object], state: Path) -> None:
    running = report.addresses(record)
    wanted = {part.name: part.url for part in plan.components}
    if running != wanted:
        differs = sorted(
            name
            for name in running.keys() | wanted.keys()
            if running.get(name) != wanted.get(name)
        )
        raise StackError(
            f"the stack of {state} already runs with other settings ({', '.join(differs)}); "
            "run `trimtab down` first, or use the same settings"
        )


def _watch(plan: Plan, state: Path, echo: Echo) -> None:
    """Report each part when it is ready; raise when one does not make it."""
    said: set[str] = set()
    deadline = time.monotonic() + _READY_WITHIN_S
    while True:
        record = report.recorded(state)
        if report.supervisor_pid(record) is None:
            raise StackError(
                f"the stack was stopped while it started; see {state / 'logs' / 'supervisor.log'}"
            )
        parts = [
            report.component(name, raw, supervised=True, weigh=False)
            for name, raw in record["components"].items()
        ]
        for part in parts:
            if part.healthy and part.name not in said:
                said.add(part.name)
                echo(f"{part.name} ready in {part.ready_s} s")
            if part.state == "failed" or (
                part.state == "restarting" and part.restarts >= _ATTEMPTS
            ):
                raise StackError(_obituary(part, state))
        if all(part.healthy for part in parts):
            return
        if time.monotonic() > deadline:
            late = next(part for part in parts if not part.healthy)
            raise StackError(
                f"{late.name} is not ready after {_READY_WITHIN_S:.0f} s. {_obituary(late, state)}"
            )
        time.sleep(0.1)


def _obituary(part: ComponentStatus, state: Path) -> str:
    log = state / "logs" / f"{part.name}.log"
    lines = log.read_text(errors="replace").splitlines()[-12:] if log.exists() else []
    tail = "\n".join(f"  {line}" for line in lines)
    return f"{part.name} does not start: {part.last_error or part.state}. The end of {log}:\n{tail}"


def _quiet(text: str) -> None:
    """Say nothing: all of it has been said when the stack was started."""
