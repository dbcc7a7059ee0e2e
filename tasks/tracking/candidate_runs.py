"""Candidates in MLflow: one run each, with everything that made it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.best_effort import best_effort
from tasks.tracking.mlflow_runs import (
    active_experiment,
    active_run,
    connect,
    log_files,
    log_values,
    tagged_runs,
)
from trimtab.model.candidate import CANDIDATE_FILE, CandidateRecord

if TYPE_CHECKING:
    from trimtab.model.training import Candidate, Split

FOLDER, TAG = "candidate", "trimtab.candidate"


@dataclass(frozen=True)
class CandidateArtifacts:
    """A candidate read back from its run: its description and the folder with its files."""

    run_id: str
    record: CandidateRecord
    folder: Path
    model_uri: str


def log_candidate(
    tracking_uri: str,
    *,
    record: CandidateRecord,
    candidate: Candidate,
    parts: Split,
    files: Mapping[str, bytes],
    plots: Mapping[str, bytes],
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

    client = connect(tracking_uri)
    experiment = active_experiment(client, record.project)
    key = f"{record.model_digest[:24]}:{record.dataset[:12]}:{record.as_of}"
    query = f"tags.`{TAG}` = '{key}' AND attributes.status = 'FINISHED'"
    done = tagged_runs(client, experiment, query)
    if done:
        kept = next((run for run in done if run.info.lifecycle_stage == "active"), done[0])
        return str(active_run(client, kept.info.run_id).info.run_id)
    shown = frame(parts.holdout.head(3), record.features)
    tags = {
        "trimtab.as_of": record.as_of,
        "trimtab.dataset": record.dataset,
        "trimtab.model_digest": record.model_digest,
    }
    with mlflow.start_run(experiment_id=experiment, run_name=f"candidate {record.as_of}", tags=tags) as run:
        run_id = str(run.info.run_id)
        measures = {f"holdout_{name}": value for name, value in record.metrics.items()}
        counts = {"rows_train": record.rows_train, "rows_holdout": record.rows_holdout}
        log_values(client, run_id, params=_flat(record.params), metrics=measures | counts)
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
        log_files(client, run_id, files, FOLDER)
        mlflow.log_dict(dict(record.lineage), "lineage.json")
        with best_effort("the pictures in MLflow"):
            log_files(client, run_id, plots, "plots")
        mlflow.set_tags({"trimtab.model_uri": model.model_uri, "trimtab.flow_run": flow_run or ""})
        mlflow.set_tag(TAG, key)  # last: it says that all the rest is there
    return run_id


def _flat(params: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in params.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        elif not isinstance(value, Mapping):
            flat[f"{prefix}{name}"] = value
    return flat


def has_candidate(tracking_uri: str, run_id: str) -> bool:
    """Whether MLflow has the run, with its tags; a deleted one is restored."""
    try:
        return TAG in active_run(connect(tracking_uri), run_id).data.tags
    except LookupError:
        return False


def fetch_candidate(tracking_uri: str, run_id: str, *, cache: Path) -> CandidateArtifacts:
    """Return the candidate of a run; its files are fetched into *cache* once. Raises LookupError when the run is
    unknown or not a finished candidate."""
    import mlflow

    run = active_run(connect(tracking_uri), run_id)
    if TAG not in run.data.tags:
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
    client = connect(tracking_uri)
    client.set_tag(run_id, "trimtab.gate", "passed" if passed else "failed")
    client.set_tag(run_id, "trimtab.gate_reason", reason)
    for name in ("candidate", "champion", "gain"):
        if (found := evidence.get(name)) and found["value"] is not None:
            client.log_metric(run_id, f"gate_{name}", found["value"])
    client.log_dict(run_id, dict(evidence), "gate.json")
    if report is not None:
        client.log_text(run_id, report, "gate.html")
