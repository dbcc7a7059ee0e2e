"""Stacks of fake parts, and settings whose ports are free."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from deployments import stack
from deployments.stack import control
from deployments.stack import state as state_module
from deployments.stack.plan import Component, Plan, Probe
from deployments.stack.seaweedfs import PARTS
from tests.ports import free_block, free_port
from trimtab.config.settings import Settings


def web(name: str, **changes: Any) -> Component:
    """A part that is a small web server."""
    port = free_port()
    command = (sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1")
    url = f"http://127.0.0.1:{port}"
    made: dict[str, Any] = {"name": name, "command": command, "probe": Probe("http", url), "url": url, **changes}
    return Component(**made)


def script(name: str, text: str, probe: Probe, **changes: Any) -> Component:
    """A part that is a few lines of Python."""
    made: dict[str, Any] = {"name": name, "command": (sys.executable, "-c", text), "probe": probe, **changes}
    return Component(**made)


class Running:
    """A plan in the hands of a supervisor."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.said: list[str] = []

    def start(self, *parts: Component) -> "Running":
        plan = Plan(self.state, parts)
        control.start(plan)
        control.watch(plan, self.said.append)
        return self

    @property
    def supervisor(self) -> psutil.Process:
        return psutil.Process(state_module.recorded(self.state)["supervisor"]["pid"])

    def part(self, name: str) -> stack.ComponentStatus:
        return next(
            p for p in state_module.components(state_module.recorded(self.state), weigh=False) if p.name == name
        )

    def processes(self) -> list[psutil.Process]:
        return [self.supervisor, *self.supervisor.children(recursive=True)]


@pytest.fixture(scope="session", autouse=True)
def no_settings_from_outside() -> Iterator[None]:
    """Tests may be run from a shell, or a flow, that points to a stack of its own."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("TRIMTAB_")]:
            patch.delenv(name)
        yield


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    stack_of_fakes = Running(tmp_path)
    yield stack_of_fakes
    control.stop(tmp_path)


def make_settings(folder: Path, **changes: Any) -> Settings:
    ports = {f"{name}_port": free_port() for name in ("postgres", "prefect", "mlflow", "server")}
    ports |= {"s3_port": free_block(len(PARTS))} if changes.get("s3") else {}
    made: dict[str, Any] = {"project": folder, "home": folder / "state", **ports, **changes}
    return Settings(**made)


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    made = make_settings(tmp_path)
    yield made
    stack.erase(made, echo=print)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """The settings of a stack whose PostgreSQL runs."""
    made = make_settings(tmp_path_factory.mktemp("postgres"))
    stack.up(made, echo=print, only=["postgres"])
    yield made
    stack.erase(made, echo=print)
