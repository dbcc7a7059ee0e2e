"""A flow run in a container of its own, by a real worker on a real engine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.deployments import run_deployment
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments import stack
from deployments.definitions import register
from stores.ledger.migrations import migrate
from tasks import containers
from tests.engine import BASE, needs_engine
from tests.ports import free_ports
from trimtab.config.run_with_secrets import CREDENTIALS
from trimtab.config.settings import Settings

ROOT = Path(__file__).parents[2]
IMAGE = "trimtab-test-worker:1"
PACKAGES = "/srv/packages"
LEDGER = "/run/secrets/ledger_url"

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300), needs_engine]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A project, its PostgreSQL and its Prefect server, and an image that finds this environment's packages."""
    folder = tmp_path_factory.mktemp("pool")
    shutil.copy(ROOT / "params.yaml", folder)
    folder.chmod(0o755)
    dockerfile = (
        f"FROM {BASE}\nENV PYTHONPATH=/srv/code:{PACKAGES} TRIMTAB_PROJECT=/srv/project TRIMTAB_HOME=/tmp/state\n"
    )
    subprocess.run(["docker", "build", "--quiet", "--tag", IMAGE, "-"], input=dockerfile.encode(), check=True,
                   capture_output=True)  # fmt: skip
    postgres, prefect = free_ports(2)
    settings = Settings(
        project=folder, home=folder / "state", postgres_port=postgres, prefect_port=prefect, work_pool="containers",
        pool_type="docker", image=IMAGE, image_pull="Never",
        pool_volumes=(
            f"{ROOT}:/srv/code:ro", f"{sysconfig.get_path('purelib')}:{PACKAGES}:ro", f"{folder}:/srv/project:ro",
            f"{folder}/state:{folder}/state:ro", f"{folder}/ledger_url:{LEDGER}:ro",
        ),
    )  # fmt: skip
    try:
        stack.up(settings, echo=print, only=["postgres", "prefect"])
        (folder / "ledger_url").write_text(stack.ledger_url(settings) + "\n")
        yield settings
    finally:
        stack.erase(settings, echo=print)
        for container in containers.find({"io.prefect.work-pool-name": settings.work_pool}):
            containers.remove(container.name)  # of scheduled runs that the worker did not live to see the end of


def inspect(name: str) -> str:
    """All that Docker tells of a container to whoever asks."""
    return subprocess.run(["docker", "inspect", name], check=True, capture_output=True, text=True).stdout


def test_a_flow_run_has_a_container_of_its_own_and_leaves_none(
    place: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads the ledger, whose address it got as the name of a file, and nothing secret is in its variables."""
    for name in CREDENTIALS:  # other tests' or the machine's own
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TRIMTAB_LEDGER_URL_FILE", LEDGER)
    environ = {**os.environ, "PREFECT_API_URL": place.prefect_api, "PREFECT_API_AUTH_STRING": "marked-77",
               "PREFECT_HOME": str(tmp_path), "PREFECT_WORKER_QUERY_SECONDS": "1"}  # fmt: skip
    ledger = stack.ledger_url(place)
    with temporary_settings({PREFECT_API_URL: place.prefect_api}):
        from stores.ledger import Ledger

        migrate(Ledger(ledger))
        register(place)
        command = [sys.executable, "-m", "deployments.workers.docker_worker", "--pool", place.work_pool]
        with (tmp_path / "worker.log").open("w") as log:
            worker = subprocess.Popen(command, env=environ, stdout=log, stderr=log, cwd=ROOT, start_new_session=True)
        try:
            run: Any = run_deployment("reconcile/on-lost-run", timeout=0)
            seen, state = "", None
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline:
                own = containers.find({"io.prefect.flow-run-id": str(run.id)})
                if own and not seen:
                    seen = inspect(own[0].name)
                with get_client(sync_client=True) as client:
                    state = client.read_flow_run(run.id).state
                if state and state.is_final() and not own:
                    break
                time.sleep(0.3)
        finally:
            worker.terminate()
            worker.wait(20)
    told = (tmp_path / "worker.log").read_text()
    assert state is not None and state.is_completed(), f"{state}: {told[-4000:]}"
    assert not containers.find({"io.prefect.flow-run-id": str(run.id)})
    inspected = json.loads(seen)[0]
    assert inspected["HostConfig"]["ReadonlyRootfs"] and inspected["HostConfig"]["CapDrop"] == ["ALL"]
    assert inspected["Config"]["Labels"]["trimtab.deployment"] == "reconcile.on-lost-run"
    assert f"TRIMTAB_LEDGER_URL_FILE={LEDGER}" in inspected["Config"]["Env"]
    assert "marked-77" not in seen
    assert ledger not in seen
