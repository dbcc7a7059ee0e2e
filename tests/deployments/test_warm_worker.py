"""The warm worker against a real Prefect server: every way in which a run or a process can begin and end."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyOptions, FlowRun
from prefect.deployments import deploy
from prefect.deployments.runner import RunnerDeployment
from prefect.flows import Flow
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelled, Cancelling, Pending
from prefect.workers.process import ProcessWorker

from deployments.crash_detection import LOST, NEVER_BEGUN, ensure_crash_automations, lost_runs

ROOT = Path(__file__).parents[2]
POOL = "warm"
LIGHT_POOL = "warm-light"  # for workers that are killed; the shared one must not take their runs
FLOWS = ("surroundings", "nap", "fail", "leave", "die", "boost", "everyday_tools")
Value = TypeVar("Value")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the warm worker forks: Linux only")


@dataclass
class Worker:
    """A worker process in its own session, and what it has written."""

    process: "subprocess.Popen[bytes]"
    log: Path

    def text(self) -> str:
        return self.log.read_text()

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def fork_server(self) -> psutil.Process:
        return next(child for child in self.family() if any("fork_server" in part for part in child.cmdline()))

    def is_warm(self, times: int = 1) -> bool:
        return len(re.findall(r"Fork server \d+ is warm", self.text())) >= times


StartWorker = Callable[..., AbstractContextManager[Worker]]


def wait_for(what: Callable[[], Value], seconds: float, reason: str) -> Value:
    """The first true value of *what*, asked for again and again."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := what():
            return value
        time.sleep(0.05)
    pytest.fail(f"{reason}: not within {seconds} s")


def is_alive(pid: int) -> bool:
    """Whether the process still runs; one that is dead and only waits to be reaped does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def ends(pid: int, *, within_s: float = 5) -> bool:
    """Whether the process is gone, now or soon: what the kernel does to it takes a moment on a busy machine."""
    deadline = time.monotonic() + within_s
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not is_alive(pid)


def gone(processes: list[psutil.Process]) -> bool:
    return not any(is_alive(process.pid) for process in processes)


@dataclass
class Orders:
    """What a user does at the API: ask for runs and look at them."""

    client: SyncPrefectClient
    pool: str

    def run(self, name: str, **parameters: Any) -> FlowRun:
        deployment = self.client.read_deployment_by_name(f"{name.replace('_', '-')}/{self.pool}")
        return self.client.create_flow_run_from_deployment(deployment.id, parameters=parameters)

    def state(self, run: FlowRun) -> str:
        state = self.client.read_flow_run(run.id).state
        return (state and state.name) or "none"

    def message(self, run: FlowRun) -> str:
        state = self.client.read_flow_run(run.id).state
        return (state and state.message) or ""

    def finish(self, run: FlowRun, seconds: float = 30) -> str:
        finals = {"Completed", "Failed", "Crashed", "Cancelled"}
        wait_for(lambda: self.state(run) in finals, seconds, f"{run.name} reaches a final state")
        return self.state(run)


@pytest.fixture(scope="module")
def client(prefect_api: str) -> Iterator[SyncPrefectClient]:
    """A client of the server, with the sample flows deployed to two pools of the stock type."""
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


@pytest.fixture(scope="module")
def orders(client: SyncPrefectClient) -> Orders:
    return Orders(client, POOL)


@pytest.fixture
def light_orders(client: SyncPrefectClient) -> Orders:
    return Orders(client, LIGHT_POOL)


@pytest.fixture(scope="module")
def start_worker(prefect_api: str, tmp_path_factory: pytest.TempPathFactory) -> StartWorker:
    """Start a warm worker; whatever is left of it is killed at the end."""

    @contextlib.contextmanager
    def start(pool: str, *options: str) -> Iterator[Worker]:
        folder = tmp_path_factory.mktemp("worker")
        env = {**os.environ, "PREFECT_API_URL": prefect_api, "PREFECT_HOME": str(folder / "home")}
        command = [sys.executable, "-m", "deployments.warm_worker", "--pool", pool, *options]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log, start_new_session=True)
        worker = Worker(process, folder / "log")
        try:
            wait_for(lambda: worker.is_warm() or process.poll() is not None, 60, "the worker is warm")
            assert process.poll() is None, worker.text()
            yield worker
        finally:
            family = worker.family() if psutil.pid_exists(process.pid) else []
            process.kill()
            for member in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.kill()
            process.wait()

    return start


@pytest.fixture(scope="module")
def worker(start_worker: StartWorker, orders: Orders) -> Iterator[Worker]:
    """A worker with everything preloaded, shared by the tests that leave it alive."""
    from deployments.warm_worker import PRELOAD

    with start_worker(POOL, "--name", "shared", "--preload", *PRELOAD, "no_such_module") as started:
        yield started


@pytest.fixture
def light_worker(start_worker: StartWorker, light_orders: Orders) -> Iterator[Worker]:
    """A worker that loads little, for the tests that kill it."""
    with start_worker(LIGHT_POOL, "--finish-seconds", "2", "--preload") as started:
        yield started


def facts(path: Path, seconds: float = 30) -> dict[str, Any]:
    """What a run has written down about itself."""
    wait_for(path.exists, seconds, f"{path.name} is written")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_a_missing_preload_module_is_a_line_in_the_log(worker: Worker) -> None:
    assert "'no_such_module' could not be imported (ModuleNotFoundError" in worker.text()
    assert worker.text().count("could not be imported") == 1


def test_the_fork_server_is_single_threaded_with_everything_loaded(worker: Worker) -> None:
    """More than one thread at a fork is how children come to hang."""
    assert worker.fork_server().num_threads() == 1


def test_the_pool_stays_one_that_the_stock_worker_can_serve(worker: Worker, orders: Orders) -> None:
    pool = orders.client.read_work_pool(POOL)
    assert pool.type == "process"
    assert pool.base_job_template == ProcessWorker.get_default_base_job_template()
    assert "type mismatch" not in worker.text()


def test_a_run_has_surroundings_of_its_own(worker: Worker, orders: Orders, tmp_path: Path) -> None:
    runs = [orders.run("surroundings", path=str(tmp_path / name)) for name in ("a", "b")]
    assert [orders.finish(run) for run in runs] == ["Completed", "Completed"]
    one, other = facts(tmp_path / "a"), facts(tmp_path / "b")

    assert one["pid"] == one["session"] != other["pid"]
    assert one["parent"] == worker.fork_server().pid
    assert one["cwd"] == str(Path(__file__).parent)
    assert one["colour"] == "green"
    assert one["openblas"] == os.environ.get("OPENBLAS_NUM_THREADS")
    assert one["random"][0] != other["random"][0]
    assert one["random"][1] != other["random"][1]
    assert int(one["blocked_signals"], 16) == 0
    assert one["modules"] == []
    server_pid = worker.fork_server().pid
    servers = {os.readlink(f"/proc/{server_pid}/fd/{fd}") for fd in os.listdir(f"/proc/{server_pid}/fd")}
    shared = (set(one["descriptors"]) & servers) - {"anon_inode:[eventpoll]"}  # every epoll has this name
    assert shared == {"/dev/null", str(worker.log)}
    assert "hello from the run" in worker.text()


def test_an_exception_fails_the_run(worker: Worker, orders: Orders) -> None:
    run = orders.run("fail")
    assert orders.finish(run) == "Failed"
    assert "the data is not there" in orders.message(run)


def test_a_run_that_exits_is_reported_crashed_with_its_exit_code(worker: Worker, orders: Orders) -> None:
    run = orders.run("leave", code=7)
    assert orders.finish(run) == "Crashed"
    assert "status code: 7" in orders.message(run)


def test_a_run_that_is_killed_is_reported_crashed_at_once(worker: Worker, orders: Orders, tmp_path: Path) -> None:
    run = orders.run("nap", seconds=60, path=str(tmp_path / "pids"))
    pids = facts(tmp_path / "pids")
    os.kill(pids["pid"], signal.SIGKILL)
    assert orders.finish(run, seconds=5) == "Crashed"
    assert not is_alive(pids["child"])


def test_crash_hooks_run_in_a_process_of_their_own(worker: Worker, orders: Orders, tmp_path: Path) -> None:
    run = orders.run("die", path=str(tmp_path / "hook"))
    assert orders.finish(run) == "Crashed"
    noted = facts(tmp_path / "hook")
    assert noted["state"] == "Crashed"
    assert noted["pid"] not in (worker.process.pid, worker.fork_server().pid)


def test_a_run_that_is_cancelled_stops(worker: Worker, orders: Orders, tmp_path: Path) -> None:
    run = orders.run("nap", seconds=60, path=str(tmp_path / "pids"))
    pids = facts(tmp_path / "pids")
    orders.client.set_flow_run_state(run.id, Cancelling())
    assert orders.finish(run) == "Cancelled"
    wait_for(lambda: not is_alive(pids["pid"]), 5, "the run's process is gone")
    assert not is_alive(pids["child"])


def test_six_runs_at_once_all_complete(worker: Worker, orders: Orders, tmp_path: Path) -> None:
    runs = [orders.run("surroundings", path=str(tmp_path / str(number))) for number in range(6)]
    assert {orders.finish(run, seconds=60) for run in runs} == {"Completed"}
    assert len({facts(tmp_path / str(number))["pid"] for number in range(6)}) == 6


def test_numerical_threads_work_in_a_forked_run(worker: Worker, orders: Orders, tmp_path: Path) -> None:
    """Libraries that had started their threads before the fork would hang here."""
    run = orders.run("boost", path=str(tmp_path / "fit"))
    assert orders.finish(run) == "Completed"
    fit = facts(tmp_path / "fit")
    cores = len(os.sched_getaffinity(0))
    assert fit["score"] > 0.95
    assert fit["threads"] == {"openmp": cores, "blas": cores}
    assert fit["tasks"] >= cores


def test_mlflow_dvc_and_evidently_work_in_a_forked_run(worker: Worker, orders: Orders, tmp_path: Path) -> None:
    run = orders.run("everyday_tools", path=str(tmp_path / "out"), folder=str(tmp_path))
    assert orders.finish(run, seconds=60) == "Completed"
    done = facts(tmp_path / "out")
    assert done["run"]
    assert done["dataset"].endswith(".dir")
    assert done["metrics"] == 1


def test_a_killed_fork_server_takes_its_runs_along_and_comes_back(
    light_worker: Worker, light_orders: Orders, tmp_path: Path
) -> None:
    lost = light_orders.run("nap", seconds=60, path=str(tmp_path / "pids"))
    pids = facts(tmp_path / "pids")
    light_worker.fork_server().kill()
    assert light_orders.finish(lost, seconds=10) == "Crashed"
    for name in ("pid", "child"):
        assert ends(pids[name]), name
    assert light_orders.finish(light_orders.run("nap", seconds=0)) == "Completed"
    assert light_worker.is_warm(times=2)


def test_sigterm_lets_short_runs_finish_stops_long_ones_and_leaves_no_process(
    light_worker: Worker, light_orders: Orders, tmp_path: Path
) -> None:
    short = light_orders.run("nap", seconds=1.5, path=str(tmp_path / "short"))
    long = light_orders.run("nap", seconds=60, path=str(tmp_path / "long"))
    facts(tmp_path / "short"), facts(tmp_path / "long")
    family = light_worker.family()
    light_worker.process.terminate()
    assert light_worker.process.wait(timeout=15) == 0
    assert gone(family)
    assert light_orders.state(short) == "Completed"
    assert light_orders.state(long) == "Crashed"


def test_runs_of_a_killed_worker_finish_and_then_nothing_is_left(
    light_worker: Worker, light_orders: Orders, tmp_path: Path
) -> None:
    run = light_orders.run("nap", seconds=2, path=str(tmp_path / "pids"))
    facts(tmp_path / "pids")
    family = light_worker.family()
    light_worker.process.kill()
    assert light_orders.finish(run) == "Completed"
    wait_for(lambda: gone(family), 10, "the fork server and its children are gone")


def test_the_stock_worker_serves_the_same_pool(light_orders: Orders, prefect_api: str, tmp_path: Path) -> None:
    run = light_orders.run("surroundings", path=str(tmp_path / "a"))
    env = {**os.environ, "PREFECT_API_URL": prefect_api, "PREFECT_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", LIGHT_POOL, "--type", "process"]
    subprocess.run([*command, "--run-once"], env=env, check=True, timeout=60)
    assert light_orders.state(run) == "Completed"


@pytest.fixture
def no_automations(light_orders: Orders) -> Iterator[None]:
    """None before, none afterwards."""
    yield
    for name in (LOST, NEVER_BEGUN):
        for automation in light_orders.client.read_automations_by_name(name):
            light_orders.client.delete_automation(automation.id)


def test_the_crash_automations_are_left_alone_when_they_are_right(light_orders: Orders, no_automations: None) -> None:
    def found(name: str) -> list[Any]:
        return light_orders.client.read_automations_by_name(name)

    ensure_crash_automations(silent_s=90)
    before = found(LOST) + found(NEVER_BEGUN)
    ensure_crash_automations(silent_s=90)
    assert [automation.id for automation in found(LOST) + found(NEVER_BEGUN)] == [each.id for each in before]
    assert len(before) == 2

    light_orders.client.create_automation(lost_runs(within_s=30))
    ensure_crash_automations(silent_s=120)
    (changed,) = found(LOST)
    assert changed.trigger.within.total_seconds() == 120


def test_a_run_that_was_taken_and_never_begins_is_reported_crashed_and_gives_its_place_back(
    light_orders: Orders, no_automations: None
) -> None:
    """As when a worker is killed between taking a run and starting its container."""
    ensure_crash_automations(start_s=10)
    client = light_orders.client
    deployment = client.read_deployment_by_name(f"fail/{LIGHT_POOL}")
    client.update_deployment(
        deployment.id,
        DeploymentUpdate(concurrency_limit=1, concurrency_options=ConcurrencyOptions(collision_strategy="CANCEL_NEW")),
    )
    first, second, third = (light_orders.run("fail") for _ in range(3))
    client.set_flow_run_state(first.id, Pending())
    client.set_flow_run_state(second.id, Pending())
    assert light_orders.state(second) == "Cancelled", "there is place for one"
    assert light_orders.finish(first) == "Crashed"
    assert "never began" in light_orders.message(first)
    client.set_flow_run_state(third.id, Pending())
    assert light_orders.state(third) == "Pending", "the place is free again"
    client.set_flow_run_state(third.id, Cancelled())
    client.update_deployment(deployment.id, DeploymentUpdate(concurrency_limit=None))


def test_a_run_lost_with_its_worker_is_reported_crashed(
    light_worker: Worker, light_orders: Orders, no_automations: None, tmp_path: Path
) -> None:
    ensure_crash_automations(silent_s=10)
    run = light_orders.run("nap", seconds=60, path=str(tmp_path / "pids"))
    facts(tmp_path / "pids")
    time.sleep(2)  # the first heartbeat has to arrive
    family = light_worker.family()
    light_worker.process.kill()
    for member in family:
        member.kill()
    assert light_orders.finish(run, seconds=60) == "Crashed"
    assert "no heartbeat" in light_orders.message(run)
