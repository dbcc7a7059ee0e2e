"""The running stack that end-to-end and browser tests share: real servers on free ports, a small project, and three
periods replayed through them by the command that people use."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from stores.ledger import Ledger
from tests import faulty_models
from tests.ports import free_ports
from trimtab.config.settings import Settings

pytest_plugins = ("tests.parallel",)
CODE = Path(__file__).resolve().parent.parent
LAST = "2013-05"
SOURCE = '''
"""Every third flight; and, when asked for by a file, faults that sources have."""
import json
from pathlib import Path
from sources import flights

FAULTS = Path(__file__).parent / "faults.json"

def load(start, end):
    rows = flights.load(start, end).iloc[::3].reset_index(drop=True)
    fault = json.loads(FAULTS.read_text()).get(f"{start:%Y-%m}") if FAULTS.exists() else None
    if fault == "fails":
        raise ConnectionError("the source went away half-way")
    if fault == "empty":
        return rows.iloc[:0]
    if fault == "missing column":
        return rows.drop(columns="temp")
    if fault == "some bad rows":
        return rows.assign(distance=rows["distance"].where(rows.index % 50 > 0, -1))
    if fault == "mostly bad":
        return rows.assign(distance=-1)
    return rows
'''


def pytest_configure() -> None:
    """A run in the background inherits that Ctrl-C is ignored, and so would what the tests interrupt. And how long an
    example takes says more of the machine than of the code."""
    hypothesis_settings.register_profile("trimtab", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    hypothesis_settings.load_profile("trimtab")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass(frozen=True)
class Stack:
    """A running stack: its addresses, the environment that leads to it, and what the replay saw."""

    settings: Settings
    env: dict[str, str]
    replayed: dict[str, Any]

    @property
    def ledger(self) -> Ledger:
        """The stack's ledger."""
        from deployments import stack

        return Ledger(stack.ledger_url(self.settings))

    def trimtab(self, *args: str, timeout_s: float = 120, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the `trimtab` command against this stack."""
        return run([sys.executable, "-m", "cli", *args], self.env, timeout_s=timeout_s, check=check)

    def pid(self, component: str) -> int:
        """The process that a part of the stack runs in."""
        parts = json.loads(self.trimtab("status", "--json").stdout)["components"]
        return int(next(part["pid"] for part in parts if part["name"] == component))

    def python(
        self, code: str, *args: str, timeout_s: float = 120, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run *code* in a Python of its own that has the stack's addresses, as a flow run has."""
        from deployments import stack

        env = {**self.env, **stack.environment(self.settings), "PYTHONPATH": str(CODE)}
        return run([sys.executable, "-c", code, *args], env, timeout_s=timeout_s, check=check)

    def prefect(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """What Prefect's API answers: GET without *body*, POST with it."""
        url = f"{self.settings.prefect_api}{path}"
        answer = httpx.get(url, timeout=10) if body is None else httpx.post(url, json=body, timeout=10)
        return answer.raise_for_status().json()

    def fault(self, **faults: str) -> None:
        """Let the source fail in the periods named like ``p2013_06="empty"``; none given mends it."""
        named = {period.removeprefix("p").replace("_", "-"): fault for period, fault in faults.items()}
        (self.settings.root / "faults.json").write_text(json.dumps(named))


def run(
    command: Sequence[str], env: dict[str, str], *, timeout_s: float, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run to the end; a failure shows what was printed."""
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=timeout_s, check=False, cwd=env["TRIMTAB_PROJECT"]
    )
    if check and done.returncode:
        pytest.fail(
            f"{' '.join(command[:6])} ended with {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        )
    return done


def small_project(folder: Path) -> None:
    """The root project with a third of the flights and a smaller model, in a git of its own."""
    from deployments.replay.demo import copy_project

    copy_project(CODE, folder)
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["source"]["target"] = "small:load"
    params["train"]["params"]["max_iter"] = 60
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    (folder / "small.py").write_text(SOURCE)
    shutil.copy2(faulty_models.MODULE, folder / "faulty_models.py")


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack after a replay of March to May, in its own folder; stopped at the end."""
    folder = tmp_path_factory.mktemp("stack")
    small_project(folder / "project")
    postgres, prefect, mlflow, server = free_ports(4)
    settings = Settings(
        project=folder / "project", home=folder / "state", postgres_port=postgres, prefect_port=prefect,
        mlflow_port=mlflow, server_port=server, commit_data=True, scheduled_ingest=False,
        trusted_types=faulty_models.TYPES,
    )  # fmt: skip
    named = {
        name: str(getattr(settings, name))
        for name in ("project", "home", "postgres_port", "prefect_port", "mlflow_port", "server_port")
    }
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "TRIMTAB_", "MLFLOW_"))}
    env = {
        **inherited, **{f"TRIMTAB_{k.upper()}": v for k, v in named.items()}, "TRIMTAB_COMMIT_DATA": "true",
        "TRIMTAB_SCHEDULED_INGEST": "false", "TRIMTAB_TRUSTED_TYPES": json.dumps(faulty_models.TYPES),
        "OMP_WAIT_POLICY": "passive",
    }  # fmt: skip
    before = Stack(settings, env, {})
    try:
        before.trimtab("up", timeout_s=180)
        before.trimtab("replay", "--last", LAST, timeout_s=400)
        yield Stack(settings, env, json.loads((settings.state / "report" / "summary.json").read_text()))
    finally:
        before.trimtab("down", timeout_s=60, check=False)
        if os.environ.get("TRIMTAB_KEEP_LOGS"):
            shutil.copytree(settings.state / "logs", os.environ["TRIMTAB_KEEP_LOGS"], dirs_exist_ok=True)
        _erase(settings)


def _erase(settings: Settings) -> None:
    from deployments import stack

    stack.erase(settings, echo=lambda _: None)
