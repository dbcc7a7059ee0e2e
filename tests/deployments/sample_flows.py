"""Flows that the worker's tests run as deployments: each looks at, or does something to, its own process."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import FlowRun, State
from prefect.flows import Flow


def _save(path: str, report: dict[str, Any]) -> None:
    unfinished = Path(f"{path}.part")
    unfinished.write_text(json.dumps(report))
    unfinished.rename(path)


@flow
def inspect_process(path: str) -> None:
    """Save the process's ids, folder, environment, descriptors and modules."""
    import numpy as np

    print("hello from the run", flush=True)
    status = Path("/proc/self/status").read_text()
    _save(
        path,
        {
            "pid": os.getpid(),
            "parent": os.getppid(),
            "session": os.getsid(0),
            "cwd": str(Path.cwd()),
            "colour": os.environ.get("COLOUR"),
            "openblas": os.environ.get("OPENBLAS_NUM_THREADS"),
            "random": [random.random(), float(np.random.rand())],
            "descriptors": [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_open(fd)],
            "blocked_signals": next(line.split()[1] for line in status.splitlines() if line.startswith("SigBlk")),
            "modules": sorted(module for module in sys.modules if module.startswith("deployments")),
        },
    )


def _is_open(descriptor: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{descriptor}")


@flow
def nap(seconds: float, path: str | None = None) -> None:
    """Take *seconds*, with a child process of its own that would take longer."""
    child = subprocess.Popen(["sleep", "300"])
    if path is not None:
        _save(path, {"pid": os.getpid(), "child": child.pid})
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.05)


@flow
def fail() -> None:
    raise ValueError("the data is not there")


@flow
def leave(code: int) -> None:
    os._exit(code)


def _save_crash(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:
    _save(flow_run.parameters["path"], {"pid": os.getpid(), "state": state.name})


@flow(on_crashed=[_save_crash])
def die(path: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@flow
async def boost(path: str) -> None:
    """Fit with OpenMP threads and multiply with BLAS threads, both loaded before the fork."""
    import numpy as np
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_info

    generator = np.random.default_rng(0)
    rows = generator.normal(size=(20_000, 10))
    model = HistGradientBoostingClassifier(max_iter=20, random_state=0).fit(rows, rows[:, 0] > 0)
    product = rows.T @ rows
    _save(
        path,
        {
            "score": model.score(rows, rows[:, 0] > 0),
            "trace": float(product.trace()),
            "threads": {pool["user_api"]: pool["num_threads"] for pool in threadpool_info()},
            "tasks": len(os.listdir("/proc/self/task")),
        },
    )


@flow
def everyday_tools(path: str, folder: str) -> None:
    """Use MLflow, DVC and Evidently for real, each once."""
    import mlflow
    import numpy as np
    import pandas as pd
    from dvc.repo import Repo
    from evidently import Report
    from evidently.metrics import ValueDrift
    from mlflow.tracking import MlflowClient
    from sklearn.linear_model import LogisticRegression

    home = Path(folder)
    generator = np.random.default_rng(0)
    frame = pd.DataFrame({"x": generator.normal(size=500), "y": generator.integers(0, 2, size=500)})

    mlflow.set_tracking_uri(f"sqlite:///{home}/mlflow.db")
    experiment = MlflowClient().create_experiment("forked", artifact_location=str(home / "artifacts"))
    with mlflow.start_run(experiment_id=experiment) as run:
        mlflow.log_metric("rows", len(frame))
        model = LogisticRegression().fit(frame[["x"]], frame["y"])
        mlflow.sklearn.log_model(model, name="model", pip_requirements=["scikit-learn"])

    (home / "data").mkdir()
    frame.to_parquet(home / "data" / "rows.parquet")
    Repo.init(str(home), no_scm=True).close()
    with Repo(str(home)) as repo:
        dataset = repo.add(str(home / "data"))[0].outs[0].hash_info.value

    report = Report([ValueDrift(column="x")]).run(frame, frame)
    _save(path, {"run": run.info.run_id, "dataset": dataset, "metrics": len(report.dict()["metrics"])})
