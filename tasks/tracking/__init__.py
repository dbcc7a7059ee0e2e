"""MLflow: runs of candidates and of the ledger's records, and the registry of models.

The only package that knows MLflow. Every function takes the tracking address and is safe to repeat."""

from tasks.tracking.candidate_runs import (
    CandidateArtifacts,
    fetch_candidate,
    has_candidate,
    log_candidate,
    log_gate_result,
)
from tasks.tracking.mlflow_runs import run_url
from tasks.tracking.model_versions import NoSuchVersion, describe_version, register_version, sync_aliases
from tasks.tracking.record_runs import DECISION, EXPERIMENT, finished_records, log_experiment, log_monitoring

__all__ = [
    "DECISION", "EXPERIMENT", "CandidateArtifacts", "NoSuchVersion", "describe_version", "fetch_candidate",
    "finished_records", "has_candidate", "log_candidate", "log_experiment", "log_gate_result", "log_monitoring",
    "register_version", "run_url", "sync_aliases",
]  # fmt: skip
