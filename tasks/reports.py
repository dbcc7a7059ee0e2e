"""Evidently: distances between datasets, and HTML reports. The only module that imports Evidently; it measures, and
`trimtab.evaluation` decides. A page only informs: callers go on without one that cannot be drawn."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from tasks.best_effort import best_effort

if TYPE_CHECKING:
    from trimtab.data.features import Feature

os.environ.setdefault("DO_NOT_TRACK", "true")

PREDICTION = "prediction"
METHODS = {"number": "wasserstein", "category": "jensenshannon"}
SUMMARY_ROWS = 2000


@dataclass(frozen=True)
class DriftReport:
    """Distances per column (effect sizes, no unit) and the page that shows them; None when it cannot be drawn."""

    distances: dict[str, float]
    prediction_distance: float | None
    html: str | None


def drift_report(
    reference: pd.DataFrame, current: pd.DataFrame, features: Sequence[Feature], *, threshold: float, period: str
) -> DriftReport:
    """How far *current* lies from *reference*: Wasserstein distance in units of the reference's standard deviation
    for numbers and the prediction, Jensen-Shannon distance for categories; both are effect sizes, so that more
    rows do not mean more drift. Frames may have more columns; the page shows *features* in their order.

    Numbers are clipped to the reference's 0.1 and 99.9 % quantiles widened by their distance: one wild value in the
    reference would blow up its standard deviation and blind the measure. Columns that are all missing on a side
    are left out, and are for `trimtab.evaluation.monitoring.missing_and_unseen` to see.
    """
    from evidently import Report
    from evidently.metrics import ValueDrift

    has_prediction = PREDICTION in reference and PREDICTION in current
    kinds = {PREDICTION: "number"} if has_prediction else {}
    kinds |= {f.name: f.kind for f in features}
    usable = [name for name in kinds if reference[name].notna().any() and current[name].notna().any()]
    numbers = [name for name in usable if kinds[name] == "number"]
    categories = [name for name in usable if kinds[name] == "category"]
    columns = [ValueDrift(column=name, method=METHODS[kinds[name]], threshold=threshold) for name in usable]
    before, after = _clip_outliers(reference[usable], current[usable], numbers)
    report = Report(columns, include_tests=True, metadata={"period": period})
    run = report.run(_dataset(after, numbers, categories), _dataset(before, numbers, categories), name=period)
    found = {m["config"]["column"]: float(m["value"]) for m in run.dict()["metrics"]}
    prediction, html = found.pop(PREDICTION, None), None
    with best_effort("Evidently's page of drift"):
        html = _html(run)
    return DriftReport({n: v for n, v in found.items() if v == v}, prediction, html)


def performance_report(
    truth: Any, prediction: Any, *, task: str, period: str, reference: tuple[Any, Any] | None = None
) -> str:
    """A page about predictions with known labels: classification quality, or regression quality.

    *truth* and *prediction* have shape (n,); *prediction* holds probabilities of the positive class for binary,
    labels for multiclass, values for regression. *reference* is the champion's pair on the same rows; it is left out
    when two labels occur on one side and others, or more, on the other, which Evidently cannot compare.
    """
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import ClassificationQuality, RegressionQuality

    pairs = [(truth, prediction), *([] if reference is None else [reference])]
    frames = [pd.DataFrame({"target": known, PREDICTION: found}) for known, found in pairs]
    roles = [_roles(task, frame) for frame in frames]
    datasets = [
        Dataset.from_pandas(frame, data_definition=DataDefinition(**role))
        for frame, role in zip(frames, roles, strict=True)
        if role == roles[0]
    ]
    preset = RegressionQuality() if task == "regression" else ClassificationQuality()
    run = Report([preset], metadata={"period": period}).run(datasets[0], *(datasets[1:] or [None]), name=period)
    return _html(run)


def _roles(task: str, frame: pd.DataFrame) -> dict[str, Any]:
    """What the columns `target` and `prediction` are to Evidently. It takes any two labels for a binary task and needs
    a positive one then: the last in order."""
    from evidently import BinaryClassification, MulticlassClassification, Regression

    if task == "regression":
        return {"regression": [Regression(target="target", prediction=PREDICTION)]}
    if task == "binary":
        return {"classification": [BinaryClassification(target="target", prediction_probas=PREDICTION, pos_label=1)]}
    labels = sorted({str(label) for label in frame[["target", PREDICTION]].to_numpy().ravel()})
    if len(labels) == 2:
        binary = BinaryClassification(
            target="target", prediction_labels=PREDICTION, pos_label=labels[1], labels={text: text for text in labels}
        )
        return {"classification": [binary]}
    return {"classification": [MulticlassClassification(target="target", prediction_labels=PREDICTION)]}


def summary_report(frame: pd.DataFrame, *, numbers: Sequence[str], categories: Sequence[str], period: str) -> str:
    """A page that describes a batch, column by column, from at most SUMMARY_ROWS of its rows."""
    from evidently import Report
    from evidently.presets import DataSummaryPreset

    shown = frame.sample(min(SUMMARY_ROWS, len(frame)), random_state=0)
    numbers = [n for n in numbers if shown[n].notna().any()]
    categories = [c for c in categories if shown[c].notna().any()]
    report = Report([DataSummaryPreset(columns=[*numbers, *categories])], metadata={"period": period})
    return _html(report.run(_dataset(shown[[*numbers, *categories]], numbers, categories), None, name=period))


def _dataset(frame: pd.DataFrame, numbers: Sequence[str], categories: Sequence[str]) -> Any:
    from evidently import DataDefinition, Dataset

    definition = DataDefinition(numerical_columns=list(numbers), categorical_columns=list(categories))
    return Dataset.from_pandas(frame, data_definition=definition)


def _clip_outliers(
    before: pd.DataFrame, after: pd.DataFrame, numbers: Sequence[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    low, high = before[numbers].quantile(0.001), before[numbers].quantile(0.999)
    room = (high - low).where(high > low, 1.0)
    old, new = (f[numbers].clip(low - room, high + room, axis=1) for f in (before, after))
    return before.assign(**old), after.assign(**new)


def _html(run: Any) -> str:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "report.html"
        run.save_html(str(path))
        return path.read_text()
