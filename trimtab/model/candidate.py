"""The record of a candidate and its artifacts: everything that a release needs beside the model's bytes.

The MLflow run holds them (`tasks.tracking`), so evaluate and register can run later and on another machine."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from io import BytesIO
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from trimtab.config.params import Params
from trimtab.data.features import Feature, frame
from trimtab.data.markdown_text import as_cell
from trimtab.data.periods import Period
from trimtab.data.types import Columns, Label, Task
from trimtab.model.release import (
    MODEL,
    REFERENCE,
    SAMPLES,
    SCHEMA,
    input_schema,
    model_digest,
    sample_predictions,
)

if TYPE_CHECKING:
    from trimtab.model.training import Candidate, Split

CANDIDATE_FILE, PROFILE_FILE = "candidate.json", "profile.json"
SAMPLE_ROWS = 25
REQUIREMENTS = ("scikit-learn", "pandas", "numpy", "skops")


class Profile(BaseModel):
    """What monitoring needs of a release: the importance of its features, its metric on the holdout (*promised*), and
    all *levels* of its categories, which a sample of rows would lack."""

    model_config = ConfigDict(frozen=True)

    metric: str
    promised: float
    importances: dict[str, float]
    as_of: str
    cut: str
    levels: dict[str, list[str]] = {}


class CandidateRecord(BaseModel):
    """The facts about a candidate. *cut* is the start of the holdout, from which on the model did not learn."""

    model_config = ConfigDict(frozen=True)

    project: str
    task: Task
    as_of: str
    cut: str
    rows_train: int
    rows_holdout: int
    dataset: str
    features: tuple[Feature, ...]
    columns: Columns
    classes: tuple[Label, ...]
    model_digest: str
    trusted_types: tuple[str, ...]
    metrics: dict[str, float]
    importances: dict[str, float]
    params: dict[str, Any]
    lineage: dict[str, Any]
    requirements: dict[str, str]


def requirements() -> dict[str, str]:
    """The versions of the packages that are needed to load the model."""
    return {name: importlib.metadata.version(name) for name in REQUIREMENTS}


def build_artifacts(
    candidate: Candidate, parts: Split, params: Params, as_of: Period, *, dataset: str, lineage: Mapping[str, Any]
) -> tuple[CandidateRecord, dict[str, bytes]]:
    """The record of *candidate* and the files of its run and its release, by name."""
    import skops.io

    from trimtab.model.training import levels_of, reference_sample

    scorer = candidate.scorer
    columns = Columns(
        time=params.columns.time, id=params.columns.id, key=params.columns.key, target=params.columns.target
    )
    record = CandidateRecord(
        project=params.project.name,
        task=params.project.task,
        as_of=str(as_of),
        cut=parts.cut.isoformat(),
        rows_train=len(parts.train),
        rows_holdout=len(parts.holdout),
        dataset=dataset,
        features=scorer.features,
        columns=columns,
        classes=tuple(scorer.classes),
        model_digest=model_digest(BytesIO(candidate.content)),
        trusted_types=tuple(sorted(skops.io.get_untrusted_types(data=candidate.content))),
        metrics=candidate.metrics,
        importances=candidate.importances,
        params=params.model_dump(mode="json", by_alias=True, exclude={"alerts", "schedule"}),
        lineage={**lineage, **({"left_out": [*candidate.left_out]} if candidate.left_out else {})},
        requirements=requirements(),
    )
    shown = frame(parts.holdout.head(SAMPLE_ROWS), scorer.features)
    profile = Profile(
        metric=params.gate.metric,
        promised=candidate.metrics[params.gate.metric],
        importances=candidate.importances,
        as_of=record.as_of,
        cut=record.cut,
        levels=levels_of(parts, scorer.features),
    )
    files = {
        MODEL: candidate.content,
        SCHEMA: input_schema(scorer.features, columns),
        REFERENCE: bytes(reference_sample(candidate, parts, params).to_parquet(index=False)),
        SAMPLES: sample_predictions(shown, scorer.score_frame(shown)),
        PROFILE_FILE: profile.model_dump_json(indent=1).encode(),
        CANDIDATE_FILE: record.model_dump_json(indent=1).encode(),
    }
    return record, files


def model_card(record: CandidateRecord, *, name: str, version: int, verdict: str) -> str:
    """The model card in Markdown. *verdict* is the reason of the gate's result."""
    top = sorted(record.importances.items(), key=lambda item: -item[1])[:8]
    lines = [
        f"# {name} version {version}",
        "",
        f"A {record.task} model of `{record.columns.target}`, trained on {record.rows_train:,} rows up to {record.cut} "
        f"(data of {record.as_of}); {record.rows_holdout:,} newer rows were kept to judge it.",
        "",
        f"**Gate:** {verdict}",
        "",
        *_left_out(record),
        "| metric, on the rows kept | value |",
        "|---|---|",
        *(f"| {key} | {value:.4f} |" for key, value in record.metrics.items()),
        "",
        "| input | share of importance |",
        "|---|---|",
        *(f"| {as_cell(key)} | {value:.1%} |" for key, value in top),
        "",
        "| made from | |",
        "|---|---|",
        f"| dataset | `{record.dataset}` |",
        f"| model digest | `{record.model_digest}` |",
        *(f"| {key} | `{as_cell(value)}` |" for key, value in record.lineage.items() if len(str(value)) < 100),
    ]
    return "\n".join(lines) + "\n"


def _left_out(record: CandidateRecord) -> list[str]:
    names = ", ".join(map(as_cell, record.lineage.get("left_out", [])))
    return [f"**Left out**, as no row to train on has a value: {names}", ""] if names else []


def manifest_fields(record: CandidateRecord, *, model_name: str, model_version: int, run_id: str) -> dict[str, Any]:
    """The fields of the release's manifest, except the digests of the files."""
    return {
        "project": record.project,
        "task": record.task,
        "model_name": model_name,
        "model_version": model_version,
        "run_id": run_id,
        "created_for": record.as_of,
        "features": record.features,
        "columns": record.columns,
        "classes": record.classes,
        "spellings": _spellings(record),
        "model_digest": record.model_digest,
        "trusted_types": record.trusted_types,
        "metrics": record.metrics,
        "lineage": {**record.lineage, "dataset": record.dataset, "params": record.params, "cut": record.cut},
        "requirements": record.requirements,
    }


def _spellings(record: CandidateRecord) -> tuple[str, str] | None:
    project = record.params.get("project", {})
    positive = project.get("positive")
    return (project["negative"], positive) if positive is not None else None
