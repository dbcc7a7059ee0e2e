"""A candidate on paper: everything a release needs to know about a trained model, beside its bytes. It travels
with the MLflow run (`tasks.tracking`), so that evaluate and register can run anywhere and at any time later."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from io import BytesIO
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from trimtab.config.params import Params
from trimtab.data.features import Feature, frame
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
    """What monitoring has to know of a release: what its inputs are worth, and what it promised."""

    model_config = ConfigDict(frozen=True)

    metric: str
    promised: float
    importances: dict[str, float]
    as_of: str
    cut: str


class CandidateRecord(BaseModel):
    """A candidate's facts. *cut* is the first moment that the model did not learn from."""

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
    """The packages that a model needs to be loaded, at the versions that made it."""
    return {name: importlib.metadata.version(name) for name in REQUIREMENTS}


def build_artifacts(
    candidate: Candidate, parts: Split, params: Params, as_of: Period, *, dataset: str, lineage: Mapping[str, Any]
) -> tuple[CandidateRecord, dict[str, bytes]]:
    """The paper and the files that go with the model into its run and its release."""
    import skops.io

    from trimtab.model.training import reference_sample

    scorer = candidate.scorer
    columns = Columns(
        time=params.columns.time, id=params.columns.id, key=params.columns.key, target=params.columns.target
    )
    paper = CandidateRecord(
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
        lineage=dict(lineage),
        requirements=requirements(),
    )
    shown = frame(parts.holdout.head(SAMPLE_ROWS), scorer.features)
    profile = Profile(
        metric=params.gate.metric,
        promised=candidate.metrics[params.gate.metric],
        importances=candidate.importances,
        as_of=paper.as_of,
        cut=paper.cut,
    )
    files = {
        MODEL: candidate.content,
        SCHEMA: input_schema(scorer.features, columns),
        REFERENCE: bytes(reference_sample(candidate, parts, params).to_parquet(index=False)),
        SAMPLES: sample_predictions(shown, scorer.score_frame(shown)),
        PROFILE_FILE: profile.model_dump_json(indent=1).encode(),
        CANDIDATE_FILE: paper.model_dump_json(indent=1).encode(),
    }
    return paper, files


def model_card(paper: CandidateRecord, *, name: str, version: int, verdict: str) -> str:
    """The model card, Markdown, for people."""
    top = sorted(paper.importances.items(), key=lambda item: -item[1])[:8]
    lines = [
        f"# {name} version {version}",
        "",
        f"A {paper.task} model of `{paper.columns.target}`, trained on {paper.rows_train:,} rows up to {paper.cut} "
        f"(data of {paper.as_of}); {paper.rows_holdout:,} newer rows were kept to judge it.",
        "",
        f"**Gate:** {verdict}",
        "",
        "| metric, on the rows kept | value |",
        "|---|---|",
        *(f"| {key} | {value:.4f} |" for key, value in paper.metrics.items()),
        "",
        "| input | share of importance |",
        "|---|---|",
        *(f"| {key} | {value:.1%} |" for key, value in top),
        "",
        "| made from | |",
        "|---|---|",
        f"| dataset | `{paper.dataset}` |",
        f"| model digest | `{paper.model_digest}` |",
        *(f"| {key} | `{value}` |" for key, value in paper.lineage.items() if len(str(value)) < 100),
    ]
    return "\n".join(lines) + "\n"


def manifest_fields(paper: CandidateRecord, *, model_name: str, model_version: int, run_id: str) -> dict[str, Any]:
    """The paper as the manifest of a release wants it."""
    return {
        "project": paper.project,
        "task": paper.task,
        "model_name": model_name,
        "model_version": model_version,
        "run_id": run_id,
        "created_for": paper.as_of,
        "features": paper.features,
        "columns": paper.columns,
        "classes": paper.classes,
        "model_digest": paper.model_digest,
        "trusted_types": paper.trusted_types,
        "metrics": paper.metrics,
        "lineage": {**paper.lineage, "dataset": paper.dataset, "params": paper.params, "cut": paper.cut},
        "requirements": paper.requirements,
    }
