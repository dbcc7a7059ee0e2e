"""The stages of `dvc.yaml`: files in, files out. What they find is in `reports/`, the candidate in `model/`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from stores.parquet_frames import read_frame
from stores.releases import bundle
from tasks import dataset
from tasks.dataset import DatasetError
from tasks.lineage import lock_digest
from tasks.pipeline.canonical_model import canonicalize
from tasks.pipeline.initial_dataset import load_schema
from trimtab.config import params as settings
from trimtab.config.params import Params
from trimtab.data import schema
from trimtab.evaluation import gate
from trimtab.model import training
from trimtab.model.candidate import CANDIDATE_FILE, CandidateRecord, build_artifacts
from trimtab.model.release import MODEL
from trimtab.model.scoring import Scorer

if TYPE_CHECKING:
    from trimtab.model.scoring import Scores

# What the flow's candidate is made from as well, so that their records agree: see flows/train.py.
MODEL_SECTIONS = {"project", "source", "columns", "period", "train", "gate"}
CURVE_POINTS = 101


def validate(project: Path) -> str:
    """Hold every accepted row against the schema as it is now; raises DatasetError for rows that break it.

    reports/validation.json: rows accepted and quarantined by period.
    """
    params, rules = settings.load(project), load_schema(project)
    counts: dict[str, dict[str, int]] = {}
    for name, path in _accepted(project).items():
        rows = read_frame(path)
        stored = params.project.label_rule.stored()  # accepted rows have labels that were read
        checked = schema.validate_batch(rows, rules, params, params.parse_period(name), labels=stored)
        if len(checked.bad):
            reasons = ", ".join(f"{why} ({count} rows)" for why, count in list(checked.reasons.items())[:5])
            raise DatasetError(f"{path} has rows that break schema.yaml: {reasons}; run validate for {name} again")
        refused = (project / "data" / "quarantined" / name).glob("*.parquet")
        counts[name] = {
            "accepted": len(rows),
            "quarantined": sum(len(read_frame(part)) for part in refused),
            "unlabelled": int(rows[params.columns.target].isna().sum()),
        }
    _write_json(project / "reports" / "validation.json", counts)
    return f"validate: {sum(c['accepted'] for c in counts.values()):,} rows of {len(counts)} periods keep the schema"


def train(project: Path) -> str:
    """A candidate on all accepted rows, as the train flow makes it: model/ and reports/training.json.

    The files have the same bytes for the same data, params and lock. So commits are left out of its lineage: the
    commit that holds `dvc.lock` names them all.
    """
    params = _params(project)
    parts, as_of = _parts(project, params)
    version = dataset.current(project)
    fitted = training.fit_candidate(params, load_schema(project), parts, project)
    facts = {"data_dvc": version.pointer, "seed": params.train.seed, "lock": lock_digest()}
    record, files = build_artifacts(
        fitted, parts, params, params.parse_period(as_of), dataset=version.hash, lineage=facts
    )
    folder = project / "model"
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(canonicalize(content) if name == MODEL else content)
    _write_json(
        project / "reports" / "training.json",
        {"rows_train": record.rows_train, "rows_holdout": record.rows_holdout, **_rounded(record.metrics)},
    )
    return f"train: {record.rows_train:,} rows up to {record.cut}: model {record.model_digest}"


def evaluate(project: Path) -> str:
    """The gate's verdict on the candidate as a first model, on rows that it has not learned from: its metric with its
    interval in reports/metrics.json, and tables to plot. To compare with a champion takes a ledger: the flow does."""
    params = _params(project)
    parts, _ = _parts(project, params)
    record = CandidateRecord.model_validate_json((project / "model" / CANDIDATE_FILE).read_bytes())
    model = bundle.load_model(
        (project / "model" / MODEL).read_bytes(), digest=record.model_digest, trusted=record.trusted_types
    )
    scorer = Scorer(model, task=record.task, features=record.features, classes=record.classes)
    truth, scores = training.labels_of(parts.holdout, params), scorer.score(parts.holdout)
    verdict = gate.evaluate_gate(params.gate, truth, scores, slices=parts.holdout)
    found = verdict.candidate
    reports = project / "reports"
    metric = _rounded({"value": found.value, "low": found.low, "high": found.high})
    _write_json(reports / "metrics.json", {"passed": int(verdict.passed), "rows": verdict.rows, verdict.metric: metric})
    _importance(record).to_csv(reports / "importance.csv", index=False)
    if record.task == "binary":
        _roc(truth, scores).to_csv(reports / "roc.csv", index=False)
        _calibration(truth, scores).to_csv(reports / "calibration.csv", index=False)
    return f"evaluate: {'passed' if verdict.passed else 'failed'}: {verdict.reason}"


def _params(project: Path) -> Params:
    given = settings.load(project).model_dump(mode="json", by_alias=True, include=MODEL_SECTIONS)
    return Params.model_validate(given)


def _accepted(project: Path) -> dict[str, Path]:
    """Period → file, oldest first."""
    found = {path.stem: path for path in sorted((project / "data" / "accepted").glob("*.parquet"))}
    if not found:
        raise DatasetError(f"{project}/data has no accepted rows: run python -m tasks.pipeline data")
    return found


def _parts(project: Path, params: Params) -> tuple[training.Split, str]:
    """All accepted rows, split by time, and the newest period among them."""
    files = _accepted(project)
    rows = pd.concat([read_frame(path) for path in files.values()], ignore_index=True)
    newest = max(files)
    return training.split(rows, params, params.parse_period(newest)), newest


def _importance(record: CandidateRecord) -> pd.DataFrame:
    table = pd.DataFrame({"feature": list(record.importances), "share": list(record.importances.values())})
    return table.sort_values("share", ascending=False).round(6)


def _roc(truth: np.ndarray[Any, Any], scores: Scores) -> pd.DataFrame:
    from sklearn.metrics import roc_curve

    false, true, _ = roc_curve(truth, scores.prediction)
    grid = np.linspace(0, 1, CURVE_POINTS)
    return pd.DataFrame({"false_positive_rate": grid, "true_positive_rate": np.interp(grid, false, true)}).round(6)


def _calibration(truth: np.ndarray[Any, Any], scores: Scores) -> pd.DataFrame:
    from sklearn.calibration import calibration_curve

    share, mean = calibration_curve(truth, scores.prediction, n_bins=10, strategy="quantile")
    return pd.DataFrame({"predicted": mean, "observed": share}).round(6)


def _rounded(numbers: Mapping[str, float]) -> dict[str, float | None]:
    """As JSON has them: what is not defined is null."""
    return {name: round(value, 6) if np.isfinite(value) else None for name, value in numbers.items()}


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
