"""MLflow: runs of candidates and of monitoring, and the registry of models.

The only module that knows MLflow. Every function takes the tracking address and is safe to repeat."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.model.candidate import CANDIDATE_FILE, CandidateRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

    from trimtab.model.training import Candidate, Split

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ASYNC_LOGGING", "false")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "4")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # which is for what was asked for

FOLDER = "candidate"
KIND = {"mlflow.experimentKind": "custom_model_development"}  # the pages for training, not those for GenAI


@dataclass(frozen=True)
class CandidateArtifacts:
    """A candidate read back from its run: its description and the folder with its files."""

    run_id: str
    record: CandidateRecord
    folder: Path
    model_uri: str


def _client(tracking_uri: str) -> MlflowClient:
    import mlflow

    mlflow.set_tracking_uri(tracking_uri)
    return mlflow.MlflowClient(tracking_uri)


def _experiment(client: MlflowClient, name: str) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    try:
        return str(client.create_experiment(name, tags=KIND))
    except MlflowException:  # another process was faster
        found = client.get_experiment_by_name(name)
        if found is None:
            raise
        return str(found.experiment_id)


def log_candidate(
    tracking_uri: str,
    *,
    record: CandidateRecord,
    candidate: Candidate,
    parts: Split,
    files: Mapping[str, bytes],
    figures: Mapping[str, Figure],
    flow_run: str | None,
) -> str:
    """Log everything about a candidate to a run and return the run's id.

    A finished run for the same model, data and params is returned instead of a new one.
    """
    import mlflow
    import mlflow.sklearn
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.models import infer_signature

    from trimtab.data.features import frame

    client = _client(tracking_uri)
    experiment = _experiment(client, record.project)
    key = f"{record.model_digest[:24]}:{record.dataset[:12]}:{record.as_of}"
    done = client.search_runs(
        [experiment], f"tags.`trimtab.candidate` = '{key}' AND status = 'FINISHED'", max_results=1
    )
    if done:
        return str(done[0].info.run_id)
    shown = frame(parts.holdout.head(3), record.features)
    tags = {
        "trimtab.as_of": record.as_of,
        "trimtab.dataset": record.dataset,
        "trimtab.model_digest": record.model_digest,
    }
    with mlflow.start_run(experiment_id=experiment, run_name=f"candidate {record.as_of}", tags=tags) as run:
        mlflow.log_params(_flat(record.params))
        mlflow.log_metrics({f"holdout_{name}": value for name, value in record.metrics.items()})
        mlflow.log_metrics({"rows_train": record.rows_train, "rows_holdout": record.rows_holdout})
        source = CodeDatasetSource({"uri": f"dvc://data@{record.dataset}"})
        data = MetaDataset(source, name="data", digest=record.dataset[:36])  # type: ignore[abstract]  # theirs to make
        mlflow.log_input(data, context="training")
        model = mlflow.sklearn.log_model(
            candidate.pipeline,
            name="model",
            serialization_format="skops",
            skops_trusted_types=list(record.trusted_types),
            signature=infer_signature(shown, candidate.pipeline.predict(shown)),
            input_example=shown,
            pip_requirements=[f"{name}=={version}" for name, version in record.requirements.items()],
        )
        _log_files(files, FOLDER)
        mlflow.log_dict(dict(record.lineage), "lineage.json")
        for name, figure in figures.items():
            mlflow.log_figure(figure, f"plots/{name}.png")
        mlflow.set_tags({"trimtab.model_uri": model.model_uri, "trimtab.flow_run": flow_run or ""})
        mlflow.set_tag("trimtab.candidate", key)  # last: it says that all the rest is there
    return str(run.info.run_id)


def _log_files(files: Mapping[str, bytes], folder: str) -> None:
    import tempfile

    import mlflow

    with tempfile.TemporaryDirectory() as scratch:
        for name, content in files.items():
            (Path(scratch) / name).write_bytes(content)
        mlflow.log_artifacts(scratch, folder)


def _flat(params: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in params.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        elif not isinstance(value, Mapping):
            flat[f"{prefix}{name}"] = str(value)[:500]
    return flat


def fetch_candidate(tracking_uri: str, run_id: str, *, cache: Path) -> CandidateArtifacts:
    """Return the candidate of a run; its files are fetched into *cache* once. Raises LookupError when the run is
    unknown or not a finished candidate."""
    import mlflow
    from mlflow.exceptions import MlflowException

    client = _client(tracking_uri)
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        raise LookupError(f"MLflow has no run {run_id}: {error.message}") from error
    if "trimtab.candidate" not in run.data.tags:
        raise LookupError(f"run {run_id} is no finished candidate: train makes one")
    folder = cache / run_id
    if not (folder / FOLDER / CANDIDATE_FILE).exists():
        folder.mkdir(parents=True, exist_ok=True)
        mlflow.artifacts.download_artifacts(
            run_id=run_id, artifact_path=FOLDER, dst_path=str(folder), tracking_uri=tracking_uri
        )
    record = CandidateRecord.model_validate_json((folder / FOLDER / CANDIDATE_FILE).read_bytes())
    return CandidateArtifacts(run_id, record, folder / FOLDER, run.data.tags["trimtab.model_uri"])


def log_gate_result(
    tracking_uri: str, run_id: str, *, passed: bool, reason: str, evidence: Mapping[str, Any], report: str | None
) -> None:
    """Log the gate's result to the candidate's run."""
    client = _client(tracking_uri)
    client.set_tag(run_id, "trimtab.gate", "passed" if passed else "failed")
    client.set_tag(run_id, "trimtab.gate_reason", reason)
    for name in ("candidate", "champion", "gain"):
        if (found := evidence.get(name)) and found["value"] is not None:
            client.log_metric(run_id, f"gate_{name}", found["value"])
    client.log_dict(run_id, dict(evidence), "gate.json")
    if report is not None:
        client.log_text(run_id, report, "gate.html")


def register_version(tracking_uri: str, *, name: str, drafted: CandidateArtifacts, tags: Mapping[str, str]) -> int:
    """Register the candidate as a model version, once, and return its number."""
    import mlflow

    client = _client(tracking_uri)
    known = client.search_model_versions(f"name = '{name}' AND run_id = '{drafted.run_id}'")
    version = known[0] if known else mlflow.register_model(
        drafted.model_uri, name, tags=dict(tags), await_registration_for=0
    )  # fmt: skip
    for key, value in tags.items():
        client.set_model_version_tag(name, str(version.version), key, value)
    return int(version.version)


def describe_version(tracking_uri: str, *, name: str, version: int, text: str, tags: Mapping[str, str]) -> None:
    """Set the description (the model card) and tags of a model version."""
    client = _client(tracking_uri)
    client.update_model_version(name, str(version), description=text)
    for key, value in tags.items():
        client.set_model_version_tag(name, str(version), key, value)


def set_alias(tracking_uri: str, *, name: str, alias: str, version: int) -> None:
    """Point *alias* at a version. The ledger decides which."""
    _client(tracking_uri).set_registered_model_alias(name, alias, str(version))


def set_champion(tracking_uri: str, *, name: str, version: int, out: int | None = None) -> None:
    """Point the alias `champion` at a version, and remove the alias `challenger` from it and from the version *out*."""
    client = _client(tracking_uri)
    client.set_registered_model_alias(name, "champion", str(version))
    if alias_version(tracking_uri, name=name, alias="challenger") in (version, out or version):
        client.delete_registered_model_alias(name, "challenger")


def alias_version(tracking_uri: str, *, name: str, alias: str) -> int | None:
    """Return the version that *alias* points at, or None."""
    from mlflow.exceptions import MlflowException

    try:
        return int(_client(tracking_uri).get_model_version_by_alias(name, alias).version)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def log_monitoring(
    tracking_uri: str,
    *,
    project: str,
    decision: str,
    tags: Mapping[str, str],
    measures: Mapping[str, float],
    facts: Mapping[str, Any],
    report: str | None,
) -> str:
    """Log a decision and its report to a run in the experiment `<project>-monitoring`, once, and return the run's
    id."""
    import mlflow

    client = _client(tracking_uri)
    experiment = _experiment(client, f"{project}-monitoring")
    done = client.search_runs(
        [experiment], f"tags.`trimtab.decision` = '{decision}' AND status = 'FINISHED'", max_results=1
    )
    if done:
        return str(done[0].info.run_id)
    with mlflow.start_run(experiment_id=experiment, run_name=decision, tags=dict(tags)) as run:
        mlflow.log_metrics(dict(measures))
        mlflow.log_dict(dict(facts), "facts.json")
        if report is not None:
            mlflow.log_text(report, "drift.html")
        mlflow.set_tag("trimtab.decision", decision)
    return str(run.info.run_id)


def log_experiment(
    tracking_uri: str,
    *,
    project: str,
    id: str,
    params: Mapping[str, Any],
    tags: Mapping[str, str],
    measures: Mapping[str, float],
    labels: int,
    report: str,
    facts: Mapping[str, Any],
    is_over: bool,
) -> str:
    """The report of an A/B experiment into its one run in the experiment `<project>-experiments`; the run's id.

    A later report goes into the same run: its measures stand beside the earlier ones by the number of *labels*.
    """
    from mlflow.entities import Metric, Param, RunTag

    client = _client(tracking_uri)
    run_id = _run_of(client, _experiment(client, f"{project}-experiments"), "trimtab.experiment", id)
    now_ms = time.time_ns() // 1_000_000
    client.log_batch(
        run_id,
        metrics=[Metric(name, value, now_ms, labels) for name, value in measures.items()],
        params=[Param(name, str(value)) for name, value in params.items()],
        tags=[RunTag(name, value) for name, value in tags.items()],
    )
    client.log_text(run_id, report, "report.md")
    client.log_dict(run_id, dict(facts), "report.json")
    if is_over:
        client.set_terminated(run_id)
    return run_id


def _run_of(client: MlflowClient, experiment: str, tag: str, value: str) -> str:
    """Return the run with this tag, created if needed. Of two that were created at once, the older one is kept."""

    def oldest() -> str | None:
        found = client.search_runs([experiment], f"tags.`{tag}` = '{value}'", order_by=["attributes.start_time ASC"])
        return str(found[0].info.run_id) if found else None

    if (known := oldest()) is not None:
        return known
    made = str(client.create_run(experiment, run_name=value, tags={tag: value}).info.run_id)
    first = oldest() or made
    if first != made:
        client.delete_run(made)
    return first


def run_url(tracking_uri: str, run_id: str, *, artifact: str | None = None) -> str:
    """Where a person sees a run, or one of its artifacts, in MLflow's pages."""
    experiment = _client(tracking_uri).get_run(run_id).info.experiment_id
    page = f"{tracking_uri}/#/experiments/{experiment}/runs/{run_id}"
    return page if artifact is None else f"{page}/artifacts/{artifact}"
