"""How a run of many tests is split among processes (pytest-xdist): tests that share a server stay together in one, and
the longest row of them begins first. At the end nothing that a process has started is left, however it ended."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil
import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

MOST: Final = 4  # each process has servers of its own
MARK: Final = "PYTEST_XDIST_TESTRUNUID"  # what the processes of a run are started with, and what they start inherits
SHARED: Final = {
    "stack": "stack",
    "prefect_api": "prefect",
    "seaweed": "seaweed",
    "ledger_url": "ledger",
    "postgres": "ledger",
}
"""Fixtures that start servers for long, and the group of tests that share them; of two the first counts."""

FIRST: Final = (
    "stack",
    "seaweed",
    "tests/serving",
    "prefect",
    "ledger",
    "tests/deployments",
    "tests/infra",
    "tests/tasks",
)
"""What begins first, as it takes longest; short modules fill what is left at the end. A server that its tests have done
with is there until the process ends, and Prefect's is busy with itself: so it is not the first one."""

_TOLD = pytest.StashKey[Path]()


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One process more than there are cores for whole folders, as tests wait for servers a third of the time; none
    beside pytest's own for what is one row of tests anyway."""
    one = bool(config.option.keyword) or config.option.capture == "no"
    whole = all(Path(asked).is_dir() for asked in config.args)
    others = any(word in config.option.markexpr.replace(f"not {word}", "") for word in ("browser", "docker"))
    return 0 if one or others or not whole else min(MOST, (os.cpu_count() or 2) + 1)


class Rows(LoadScopeScheduling):  # type: ignore[misc]
    """Deals out whole groups, in the order of collection. (xdist's own groups go by changed test ids, which pytest 9.2
    does not let it change: https://github.com/pytest-dev/pytest-xdist/issues/1386.)"""

    def __init__(self, config: pytest.Config, log: Producer | None, told: Path) -> None:
        super().__init__(config, log)
        self._told = told
        self._group: dict[str, str] = {}

    def _split_scope(self, nodeid: str) -> str:
        self._group = self._group or json.loads(next(self._told.iterdir()).read_text())
        return self._group[nodeid]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling | None:
    """Ours for what `make test` asks for; another --dist is xdist's business."""
    return Rows(config, log, _told(config)) if config.getoption("dist") == "loadscope" else None


def pytest_configure_node(node: WorkerController) -> None:
    """A process of the run begins: where it says what it has found."""
    node.workerinput["told"] = str(_told(node.config))


def _told(config: pytest.Config) -> Path:
    if _TOLD not in config.stash:
        folder = tempfile.TemporaryDirectory(prefix="trimtab-tests-")
        config.add_cleanup(folder.cleanup)
        config.stash[_TOLD] = Path(folder.name)
    return config.stash[_TOLD]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the groups in the order in which they are dealt out, and say which test is in which."""
    told: dict[str, str] = getattr(config, "workerinput", {})
    if "told" not in told:
        return
    items.sort(key=_turn)
    groups = {item.nodeid: group(item) for item in items}
    (Path(told["told"]) / told["workerid"]).write_text(json.dumps(groups))


def group(item: pytest.Item) -> str:
    """The tests that this one shares a server with, or else its module."""
    used = getattr(item, "fixturenames", ())
    shared = [name for fixture, name in SHARED.items() if fixture in used]
    return shared[0] if shared else item.nodeid.split("::")[0]


def _turn(item: pytest.Item) -> int:
    its = group(item)
    return next((place for place, first in enumerate(FIRST) if its.startswith(first)), len(FIRST))


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """Once the processes of the run are gone, look for servers that they did not get to stop: they have some seconds
    for it when the run is interrupted, and a stack takes longer."""
    yield
    manager = getattr(session.config.pluginmanager.getplugin("dsession"), "nodemanager", None)
    left = _started_by(manager.testrunuid) if manager is not None else []
    for process in left:
        with suppress(psutil.Error):
            print(f"\nstopped what was left running: {process.pid} {' '.join(process.cmdline())[:100]}")
            process.terminate()
    for process in psutil.wait_procs(left, timeout=5)[1]:
        with suppress(psutil.Error):
            process.kill()


def _started_by(run: str) -> list[psutil.Process]:
    """Every process that carries the mark of this *run*, whoever its parent is by now."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == run:
                found.append(process)
    return found
