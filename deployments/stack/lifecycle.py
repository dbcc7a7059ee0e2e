"""Up, down, status and erase: what people ask of a stack, in terms of settings. Keeping things alive is the
supervisor's work, reached through `handover`."""

import os
import shutil
from collections.abc import Collection
from typing import Any

import psutil

from deployments.stack import (
    components,
    control,
    external_postgres,
    postgres,
    postgres_setup,
    probes,
    processes,
    seaweedfs,
)
from deployments.stack import state as state_module
from deployments.stack.addresses import with_addresses, without_proxy
from deployments.stack.control import Echo
from deployments.stack.plan import LOCK, RECORD, Component, Plan, Probe, StackError
from deployments.stack.ports import require_free
from deployments.stack.state import ComponentStatus, StackStatus
from trimtab.config.settings import Settings


def up(settings: Settings, *, echo: Echo, only: Collection[str] | None = None) -> StackStatus:
    """Start what is not up and wait until every part is healthy; if all is up already, change nothing.

    *only* names the parts to start (and to wait for); the default is all of them.
    Raises StackError when a port is taken, a part cannot start, or the running stack has other settings.
    What this call has started is stopped again when it fails or is interrupted.
    """
    settings = with_addresses(settings)
    os.environ.update(without_proxy(settings))
    plan = components.plan(settings, only=only)
    _make_state(settings)
    started = False
    try:
        with control.exclusive(settings.state, echo):
            record = state_module.recorded(settings.state)
            if state_module.supervisor_pid(record) is None:
                control.remove_leftovers(settings.state)
                require_free(port for port in components.ports(settings) if port.component in plan.names)
                _require_external(settings)
                _prepare(settings, plan, echo)
                plan = components.plan(settings, only=only)  # with the keys that have just been made
                started = True
                control.start(plan)
            else:
                _require_same(plan, record)
        control.watch(plan, echo if started else _say_nothing)
    except BaseException:
        if started:
            echo("stopping what was started")
            control.stop(settings.state)
        raise
    return status(settings)


def down(settings: Settings, *, echo: Echo) -> None:
    """Stop everything that `up` started here, and nothing else. Does no harm where nothing runs."""
    if state_module.supervisor_pid(state_module.recorded(settings.state)) is not None:
        echo("stopping")
    echo("stopped" if control.stop(settings.state) else "nothing was running")


def status(settings: Settings) -> StackStatus:
    """How every part is now: ours as the supervisor last saw it, those of others asked directly."""
    record = state_module.recorded(settings.state)
    pid = state_module.supervisor_pid(record)
    parts = {part.name: part for part in state_module.components(record, weigh=True)}
    for part in components.plan(settings).components:
        parts.setdefault(part.name, ComponentStatus(name=part.name, state="stopped", url=part.url or None))
    for name, url in components.external(settings).items():
        trouble = _external_trouble(settings, name)
        state: state_module.State = "unhealthy" if trouble else "external"
        parts[name] = ComponentStatus(name=name, state=state, url=url, last_error=trouble)
    weight = round(processes.memory_mb(psutil.Process(pid), alone=True), 1) if pid else None
    return StackStatus(supervisor_pid=pid, supervisor_mb=weight, components=list(parts.values()))


def erase(settings: Settings, *, echo: Echo) -> None:
    """Stop the stack and delete its databases and logs, for good. Data, models and telemetry stay."""
    down(settings, echo=echo)
    shutil.rmtree(postgres.home(settings), ignore_errors=True)
    for name in ("logs", "prefect"):
        shutil.rmtree(settings.state / name, ignore_errors=True)
    for name in (postgres.passfile(settings).name, "registered.json", RECORD, "up.lock", LOCK):
        (settings.state / name).unlink(missing_ok=True)


def _make_state(settings: Settings) -> None:
    try:
        settings.state.mkdir(parents=True, exist_ok=True)
        if not (ignored := settings.state / ".gitignore").exists():
            ignored.write_text("# Databases, logs, models and passwords of this installation.\n*\n")
    except OSError as error:
        raise StackError(
            f"the state folder {settings.state} cannot be made ({error.strerror}); "
            "choose another one with TRIMTAB_HOME=<folder>"
        ) from error


def _require_external(settings: Settings) -> None:
    for name, url in components.external(settings).items():
        trouble = _external_trouble(settings, name)
        if trouble:
            setting = "TRIMTAB_STORE" if name == "objects" else f"TRIMTAB_{name.upper()}_URL"
            raise StackError(f"{name} at {url} ({setting}) is not healthy: {trouble}")


def _external_trouble(settings: Settings, name: str) -> str | None:
    if name == "postgres":
        return external_postgres.connection_problem(settings)
    if name == "objects":
        return seaweedfs.connection_problem(settings)
    # One that asks for a password says that it is there without.
    without_key = {"mlflow": f"{settings.tracking_uri}/health"}
    part = Component(name, (), Probe("http", without_key.get(name) or components.health_url(settings, name)))
    return probes.probe(part, 0.0, timeout_s=5.0)


def _prepare(settings: Settings, plan: Plan, echo: Echo) -> None:
    if "objects" in plan.names:
        seaweedfs.prepare(settings)
    if settings.postgres_url is None:
        postgres_setup.prepare(settings, echo)
    else:
        external_postgres.prepare(settings)


def _require_same(plan: Plan, record: dict[str, Any]) -> None:
    running = state_module.addresses(record)
    differs = sorted(part.name for part in plan.components if running.get(part.name) != part.url)
    if differs:
        raise StackError(
            f"the stack of {plan.state} already runs, but with other settings for {', '.join(differs)}; "
            "run `trimtab down` first, or use the same settings"
        )


def _say_nothing(_text: str) -> None:
    """All of it was said when the stack was started."""
