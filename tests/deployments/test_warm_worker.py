"""The warm worker against a real Prefect server: every way in which a run or a process can begin and end."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from prefect.states import Cancelling
from prefect.workers.process import ProcessWorker

from tests.deployments.workers import LIGHT_POOL, POOL, FlowRunClient, StartWorker, Worker, is_alive, read_report
from tests.waiting import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the warm worker forks: Linux only")


def gone(processes: list[psutil.Process]) -> bool:
    return not any(is_alive(process.pid) for process in processes)


@pytest.fixture(scope="module")
def worker(start_worker: StartWorker, runs_client: FlowRunClient) -> Iterator[Worker]:
    """A worker with everything preloaded, shared by the tests that leave it alive."""
    from deployments.workers.warm_worker import PRELOAD

    with start_worker(POOL, "--name", "shared", "--preload", *PRELOAD, "no_such_module") as started:
        yield started


def test_a_missing_preload_module_is_a_line_in_the_log(worker: Worker) -> None:
    assert "'no_such_module' could not be imported (ModuleNotFoundError" in worker.text()
    assert worker.text().count("could not be imported") == 1


def test_the_fork_server_is_single_threaded_with_everything_loaded(worker: Worker) -> None:
    """More than one thread at a fork is how children come to hang."""
    assert worker.fork_server().num_threads() == 1


def test_the_pool_stays_one_that_the_stock_worker_can_serve(worker: Worker, runs_client: FlowRunClient) -> None:
    pool = runs_client.client.read_work_pool(POOL)
    assert pool.type == "process"
    assert pool.base_job_template == ProcessWorker.get_default_base_job_template()
    assert "type mismatch" not in worker.text()


def test_a_run_has_a_process_and_an_environment_of_its_own(
    worker: Worker, runs_client: FlowRunClient, tmp_path: Path
) -> None:
    runs = [runs_client.run("inspect_process", path=str(tmp_path / name)) for name in ("a", "b")]
    assert [runs_client.finish(run) for run in runs] == ["Completed", "Completed"]
    one, other = read_report(tmp_path / "a"), read_report(tmp_path / "b")

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


def test_an_exception_fails_the_run(worker: Worker, runs_client: FlowRunClient) -> None:
    run = runs_client.run("fail")
    assert runs_client.finish(run) == "Failed"
    assert "the data is not there" in runs_client.message(run)


def test_a_run_that_exits_is_reported_crashed_with_its_exit_code(worker: Worker, runs_client: FlowRunClient) -> None:
    run = runs_client.run("leave", code=7)
    assert runs_client.finish(run) == "Crashed"
    assert "status code: 7" in runs_client.message(run)


def test_a_run_that_is_killed_is_reported_crashed_at_once(
    worker: Worker, runs_client: FlowRunClient, tmp_path: Path
) -> None:
    run = runs_client.run("nap", seconds=60, path=str(tmp_path / "pids"))
    pids = read_report(tmp_path / "pids")
    os.kill(pids["pid"], signal.SIGKILL)
    assert runs_client.finish(run, seconds=5) == "Crashed"
    assert not is_alive(pids["child"])


def test_crash_hooks_run_in_a_process_of_their_own(worker: Worker, runs_client: FlowRunClient, tmp_path: Path) -> None:
    run = runs_client.run("die", path=str(tmp_path / "hook"))
    assert runs_client.finish(run) == "Crashed"
    noted = read_report(tmp_path / "hook")
    assert noted["state"] == "Crashed"
    assert noted["pid"] not in (worker.process.pid, worker.fork_server().pid)


def test_a_run_that_is_cancelled_stops(worker: Worker, runs_client: FlowRunClient, tmp_path: Path) -> None:
    run = runs_client.run("nap", seconds=60, path=str(tmp_path / "pids"))
    pids = read_report(tmp_path / "pids")
    runs_client.client.set_flow_run_state(run.id, Cancelling())
    assert runs_client.finish(run) == "Cancelled"
    eventually(lambda: not is_alive(pids["pid"]), "the end of the run's process", within_s=5)
    assert not is_alive(pids["child"])


def test_six_runs_at_once_all_complete(worker: Worker, runs_client: FlowRunClient, tmp_path: Path) -> None:
    runs = [runs_client.run("inspect_process", path=str(tmp_path / str(number))) for number in range(6)]
    assert {runs_client.finish(run, seconds=60) for run in runs} == {"Completed"}
    assert len({read_report(tmp_path / str(number))["pid"] for number in range(6)}) == 6


def test_numerical_threads_work_in_a_forked_run(worker: Worker, runs_client: FlowRunClient, tmp_path: Path) -> None:
    """Libraries that had started their threads before the fork would hang here."""
    run = runs_client.run("boost", path=str(tmp_path / "fit"))
    assert runs_client.finish(run) == "Completed"
    fit = read_report(tmp_path / "fit")
    cores = len(os.sched_getaffinity(0))
    assert fit["score"] > 0.95
    assert fit["threads"] == {"openmp": cores, "blas": cores}
    assert fit["tasks"] >= cores


def test_mlflow_dvc_and_evidently_work_in_a_forked_run(
    worker: Worker, runs_client: FlowRunClient, tmp_path: Path
) -> None:
    run = runs_client.run("everyday_tools", path=str(tmp_path / "out"), folder=str(tmp_path))
    assert runs_client.finish(run, seconds=60) == "Completed"
    done = read_report(tmp_path / "out")
    assert done["run"]
    assert done["dataset"].endswith(".dir")
    assert done["metrics"] == 1


def test_a_killed_fork_server_takes_its_runs_along_and_comes_back(
    light_worker: Worker, light_runs: FlowRunClient, tmp_path: Path
) -> None:
    lost = light_runs.run("nap", seconds=60, path=str(tmp_path / "pids"))
    pids = read_report(tmp_path / "pids")
    light_worker.fork_server().kill()
    assert light_runs.finish(lost, seconds=10) == "Crashed"
    for name in ("pid", "child"):
        eventually(lambda name=name: not is_alive(pids[name]), f"the end of its {name}", within_s=5)  # type: ignore[misc]
    assert light_runs.finish(light_runs.run("nap", seconds=0)) == "Completed"
    assert light_worker.is_warm(times=2)


def test_sigterm_lets_short_runs_finish_stops_long_ones_and_leaves_no_process(
    light_worker: Worker, light_runs: FlowRunClient, tmp_path: Path
) -> None:
    short = light_runs.run("nap", seconds=1.5, path=str(tmp_path / "short"))
    long = light_runs.run("nap", seconds=60, path=str(tmp_path / "long"))
    read_report(tmp_path / "short"), read_report(tmp_path / "long")
    descendants = light_worker.descendants()
    light_worker.process.terminate()
    assert light_worker.process.wait(timeout=15) == 0
    assert gone(descendants)
    assert light_runs.state(short) == "Completed"
    assert light_runs.state(long) == "Crashed"


def test_runs_of_a_killed_worker_finish_and_then_nothing_is_left(
    light_worker: Worker, light_runs: FlowRunClient, tmp_path: Path
) -> None:
    run = light_runs.run("nap", seconds=2, path=str(tmp_path / "pids"))
    read_report(tmp_path / "pids")
    descendants = light_worker.descendants()
    light_worker.process.kill()
    assert light_runs.finish(run) == "Completed"
    eventually(lambda: gone(descendants), "the end of the fork server and its children", within_s=10)


def test_the_stock_worker_serves_the_same_pool(light_runs: FlowRunClient, prefect_api: str, tmp_path: Path) -> None:
    run = light_runs.run("inspect_process", path=str(tmp_path / "a"))
    env = {**os.environ, "PREFECT_API_URL": prefect_api, "PREFECT_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", LIGHT_POOL, "--type", "process"]
    subprocess.run([*command, "--run-once"], env=env, check=True, timeout=60)
    assert light_runs.state(run) == "Completed"
