"""Records of the ledger in MLflow: monitoring decisions and A/B experiments, one run each, tagged with the record's
id."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tasks.tracking.mlflow_runs import active_experiment, connect, keep_one, log_values, run_of, tagged_runs

DECISION, EXPERIMENT = "trimtab.decision", "trimtab.experiment"
SUFFIX: Final = {DECISION: "monitoring", EXPERIMENT: "experiments"}
FINISHED: Final = "FINISHED"


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
    """Log a decision and its report to its run in the experiment `<project>-monitoring`, once; the run's id."""
    client = connect(tracking_uri)
    run = run_of(client, active_experiment(client, f"{project}-{SUFFIX[DECISION]}"), DECISION, decision)
    run_id = str(run.info.run_id)
    if run.info.status == FINISHED:
        return run_id
    log_values(client, run_id, metrics=measures, tags=tags)
    client.log_dict(run_id, dict(facts), "facts.json")
    if report is not None:
        client.log_text(run_id, report, "drift.html")
    client.set_terminated(run_id)
    return run_id


def finished_records(tracking_uri: str, *, project: str, tag: str) -> set[str]:
    """The ids of the newest records of a kind (*tag*) whose run is finished. Of several runs of one record the oldest
    is kept, and one that was deleted is restored."""
    client = connect(tracking_uri)
    runs: dict[str, list[Any]] = {}
    for run in tagged_runs(client, active_experiment(client, f"{project}-{SUFFIX[tag]}"), f"tags.`{tag}` != ''"):
        runs.setdefault(run.data.tags[tag], []).append(run)
    kept = {id: keep_one(client, found) for id, found in runs.items()}
    return {id for id, run in kept.items() if run is not None and run.info.status == FINISHED}


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
    client = connect(tracking_uri)
    run = run_of(client, active_experiment(client, f"{project}-{SUFFIX[EXPERIMENT]}"), EXPERIMENT, id)
    run_id = str(run.info.run_id)
    log_values(client, run_id, metrics=measures, params=params, tags=tags, step=labels)
    client.log_text(run_id, report, "report.md")
    client.log_dict(run_id, dict(facts), "report.json")
    if is_over:
        client.set_terminated(run_id)
    return run_id
