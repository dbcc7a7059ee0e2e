"""A Prefect server of its own for this room's tests, on PostgreSQL: with SQLite a poll of the worker waits a minute for
a lock now and then."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from deployments import stack
from tests.deployments.workers import LIGHT_POOL, POOL, FlowRunClient, StartWorker, Worker
from tests.ports import free_ports
from tests.waiting import eventually
from trimtab.config.settings import Settings

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

ROOT = Path(__file__).parents[2]
FLOWS = ("inspect_process", "nap", "fail", "leave", "die", "boost", "everyday_tools")


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """API address of a Prefect server that lives as long as the session."""
    folder = tmp_path_factory.mktemp("prefect")
    postgres, prefect = free_ports(2)
    settings = Settings(project=folder, home=folder / "state", postgres_port=postgres, prefect_port=prefect)
    try:
        stack.up(settings, echo=print, only=["postgres", "prefect"])
        yield settings.prefect_api
    finally:
        stack.erase(settings, echo=print)


@pytest.fixture(scope="session")
def client(prefect_api: str) -> Iterator[SyncPrefectClient]:
    """A client of the server, with the sample flows deployed to two pools of the stock type."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.deployments import deploy
    from prefect.deployments.runner import RunnerDeployment
    from prefect.flows import Flow
    from prefect.settings import PREFECT_API_URL, temporary_settings
    from prefect.workers.process import ProcessWorker

    template = ProcessWorker.get_default_base_job_template()
    with temporary_settings({PREFECT_API_URL: prefect_api}), get_client(sync_client=True) as client:
        for pool in (POOL, LIGHT_POOL):
            client.create_work_pool(WorkPoolCreate(name=pool, type="process", base_job_template=template))
            samples = []
            for name in FLOWS:
                flow = Flow.from_source(source=str(Path(__file__).parent), entrypoint=f"sample_flows.py:{name}")
                assert isinstance(flow, Flow)
                sample = flow.to_deployment(name=pool, work_pool_name=pool, job_variables={"env": {"COLOUR": "green"}})
                assert isinstance(sample, RunnerDeployment)
                samples.append(sample)
            deploy(*samples, work_pool_name=pool, build=False, push=False, print_next_steps_message=False)
        yield client


@pytest.fixture(scope="session")
def runs_client(client: SyncPrefectClient) -> FlowRunClient:
    return FlowRunClient(client, POOL)


@pytest.fixture
def light_runs(client: SyncPrefectClient) -> FlowRunClient:
    return FlowRunClient(client, LIGHT_POOL)


@pytest.fixture(scope="session")
def start_worker(prefect_api: str, tmp_path_factory: pytest.TempPathFactory) -> StartWorker:
    """Start a warm worker; whatever is left of it is killed at the end."""

    @contextlib.contextmanager
    def start(pool: str, *options: str) -> Iterator[Worker]:
        folder = tmp_path_factory.mktemp("worker")
        env = {**os.environ, "PREFECT_API_URL": prefect_api, "PREFECT_HOME": str(folder / "home")}
        command = [sys.executable, "-m", "deployments.workers.warm_worker", "--pool", pool, *options]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log, start_new_session=True)
        worker = Worker(process, folder / "log")
        try:
            eventually(lambda: worker.is_warm() or process.poll() is not None, "it is warm", within_s=60)
            assert process.poll() is None, worker.text()
            yield worker
        finally:
            descendants = worker.descendants() if psutil.pid_exists(process.pid) else []
            process.kill()
            for member in descendants:
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.kill()
            process.wait()

    return start


@pytest.fixture
def light_worker(start_worker: StartWorker, light_runs: FlowRunClient) -> Iterator[Worker]:
    """A worker that loads little, for the tests that kill it."""
    with start_worker(LIGHT_POOL, "--finish-seconds", "2", "--preload") as started:
        yield started
