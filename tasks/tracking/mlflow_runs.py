"""MLflow's runs: the connection, experiments, the one run of a record, and values under valid keys.

What people delete in MLflow's pages is restored when it is needed again, and made anew when it is gone for good."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ASYNC_LOGGING", "false")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "4")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # which is for what was asked for

KIND: Final = {"mlflow.experimentKind": "custom_model_development"}  # the pages for training, not those for GenAI
MAX_KEY, MAX_VALUE, AT_ONCE = 250, 500, 100
"""MLflow's longest key, our longest value of a param, and how many values one request may log."""


def connect(tracking_uri: str) -> MlflowClient:
    """A client for the tracking server, which mlflow's own functions use from now on, too."""
    import mlflow

    mlflow.set_tracking_uri(tracking_uri)
    return mlflow.MlflowClient(tracking_uri)


def active_experiment(client: MlflowClient, name: str) -> str:
    """The id of the experiment called *name*: created if needed, restored with its runs if it was deleted."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, tags=KIND))
        except MlflowException:  # another process was faster
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def active_run(client: MlflowClient, run_id: str) -> Run:
    """The run *run_id*, restored with its experiment if it was deleted. Raises LookupError when MLflow has no such run,
    as after `mlflow gc`."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise LookupError(f"MLflow has no run {run_id}: {error.message}") from error
    experiment = client.get_experiment(run.info.experiment_id)
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    if run.info.lifecycle_stage == "deleted":
        client.restore_run(run_id)
    return run


def tagged_runs(client: MlflowClient, experiment: str, query: str, *, limit: int = 100) -> list[Run]:
    """The newest runs that match *query*, deleted ones included, oldest first."""
    from mlflow.entities import ViewType

    order = ["attributes.start_time DESC", "attributes.run_id DESC"]
    return [*client.search_runs([experiment], query, ViewType.ALL, limit, order)][::-1]


def keep_one(client: MlflowClient, runs: Sequence[Run]) -> Run | None:
    """Of *runs*, oldest first, keep the first that is not deleted, or restore the first; delete the others."""
    active = [run for run in runs if run.info.lifecycle_stage == "active"]
    for other in active[1:]:
        client.delete_run(other.info.run_id)
    if not active and runs:
        client.restore_run(runs[0].info.run_id)
    return next(iter([*active, *runs]), None)


def run_of(client: MlflowClient, experiment: str, tag: str, value: str) -> Run:
    """The one run with this tag, which is the id of a record in the ledger; created if needed.

    Of two that were created at once the older one is kept. Clocks may differ, so that both are: the next call, such as
    reconcile's, deletes one.
    """
    query = f"tags.`{tag}` = '{value}'"
    known = keep_one(client, tagged_runs(client, experiment, query))
    if known is not None:
        return known
    made = client.create_run(experiment, run_name=value, tags={tag: value})
    return keep_one(client, tagged_runs(client, experiment, query)) or made


def entity_key(name: str) -> str:
    """*name* as MLflow's key of a metric, param or tag: other characters than letters, digits, and ``_-.`` and space
    become their code between colons. Different names have different keys.

    >>> entity_key("distance_price (€)")
    'distance_price :28::20ac::29:'
    """
    key = re.sub(r"[^\w\-. ]|^\.", lambda found: f":{ord(found[0]):x}:", name) or ":"
    if len(key) <= MAX_KEY:
        return key
    return f"{key[: MAX_KEY - 33]}:{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:32]}"


def log_values(
    client: MlflowClient,
    run_id: str,
    *,
    metrics: Mapping[str, float] | None = None,
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    step: int = 0,
) -> None:
    """Log values under any names, as many as there are."""
    from mlflow.entities import Metric, Param, RunTag

    now_ms = time.time_ns() // 1_000_000
    all_metrics = [Metric(entity_key(name), value, now_ms, step) for name, value in (metrics or {}).items()]
    all_params = [Param(entity_key(name), str(value)[:MAX_VALUE]) for name, value in (params or {}).items()]
    all_tags = [RunTag(entity_key(name), value) for name, value in (tags or {}).items()]
    for first in range(0, max(len(all_metrics), len(all_params), len(all_tags)), AT_ONCE):
        part = slice(first, first + AT_ONCE)
        client.log_batch(run_id, metrics=all_metrics[part], params=all_params[part], tags=all_tags[part])


def log_files(client: MlflowClient, run_id: str, files: Mapping[str, bytes], folder: str) -> None:
    """Log *files*, name → content, as artifacts in *folder*."""
    with tempfile.TemporaryDirectory() as scratch:
        for name, content in files.items():
            (Path(scratch) / name).write_bytes(content)
        client.log_artifacts(run_id, scratch, folder)


def run_url(tracking_uri: str, run_id: str, *, artifact: str | None = None) -> str:
    """Where a person sees a run, or one of its artifacts, in MLflow's pages."""
    experiment = connect(tracking_uri).get_run(run_id).info.experiment_id
    page = f"{tracking_uri}/#/experiments/{experiment}/runs/{run_id}"
    return page if artifact is None else f"{page}/artifacts/{artifact}"
