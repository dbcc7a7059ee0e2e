"""Train a model: split the rows by time, fit the pipeline, measure the result.

The same rows and params give the same model, to the bit, on any number of threads; see
docs/explanation/reproducibility.md for the estimators. `tasks` reads the rows and logs the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from io import BytesIO
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from trimtab.config.params import Params, ParamsError
from trimtab.data.features import Feature, frame
from trimtab.data.periods import Period
from trimtab.data.schema import Schema
from trimtab.evaluation import metrics
from trimtab.model.pipeline import build_pipeline
from trimtab.model.scoring import Scorer

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

IMPORTANCE_ROWS = 3000
IMPORTANCE_REPEATS = 3
IMPORTANCE_CELLS = 5_000_000  # of the tables that are scored at once: 40 MB
REFERENCE_ROWS = 20_000


class NotEnoughData(ValueError):
    """The window has too few rows or labels to train on, or to evaluate on."""


@dataclass(frozen=True)
class Split:
    """A window split by time: the labelled rows of *train* before *cut* and of *holdout* from *cut* on. *seen* are all
    rows before *cut*, with a label or without, as live rows come."""

    train: pd.DataFrame
    holdout: pd.DataFrame
    cut: pd.Timestamp
    seen: pd.DataFrame


@dataclass(frozen=True)
class Candidate:
    """A fitted pipeline, its scorer, its skops file (*content*), its importances and metrics on the holdout, and the
    features that it ignores, as no row to train on has a value (*left_out*)."""

    pipeline: Pipeline
    scorer: Scorer
    content: bytes
    importances: dict[str, float]
    metrics: dict[str, float]
    left_out: tuple[str, ...] = ()


def holdout_start(params: Params, as_of: Period) -> pd.Timestamp:
    """The start of the holdout, in UTC without a time zone, in a window that ends with the period *as_of*."""
    held = params.train.holdout
    moment = as_of.end - held if isinstance(held, timedelta) else as_of.shift(1 - held).start
    return pd.Timestamp(moment).tz_localize(None)


def split(rows: pd.DataFrame, params: Params, as_of: Period) -> Split:
    """Split the window that ends with *as_of* into train and holdout, both sorted by time and id.

    Raises NotEnoughData when one of them has no labelled row.
    """
    time, target, length = params.columns.time, params.columns.target, params.train.window
    first = params.first if length == "all" else as_of.shift(1 - length)
    start, end, cut = (
        pd.Timestamp(t).tz_localize(None) for t in (first.start, as_of.end, holdout_start(params, as_of))
    )
    window = rows[(rows[time] >= start) & (rows[time] < end)].sort_values([time, params.columns.id], ignore_index=True)
    known = window[window[target].notna()]
    train, holdout = known[known[time] < cut], known[known[time] >= cut]
    for part, name in ((train, "train on"), (holdout, "judge on")):
        if part.empty:
            raise NotEnoughData(
                f"no labelled rows to {name} between {start if name == 'train on' else cut} and {end}: "
                "ingest earlier periods, or change train.window or train.holdout in params.yaml"
            )
    seen = window[window[time] < cut]
    train, holdout, seen = (part.reset_index(drop=True) for part in (train, holdout, seen))
    return Split(train, holdout, cut, seen)


def features_of(params: Params, schema: Schema) -> tuple[Feature, ...]:
    """The model's features, numbers first; *schema* says which are nullable."""
    kinds = dict.fromkeys(params.columns.number, "number") | dict.fromkeys(params.columns.category, "category")
    return tuple(
        Feature.model_validate({"name": name, "kind": kind, "nullable": schema.columns[name].nullable})
        for name, kind in kinds.items()
    )


def labels_of(rows: pd.DataFrame, params: Params) -> np.ndarray[Any, Any]:
    """The labels of *rows*, shape (n,): 0 and 1 for binary, text for multiclass, float64 for regression.

    Raises ValueError when a binary target has other values.
    """
    values = rows[params.columns.target]
    match params.project.task:
        case "binary":
            if strange := sorted(set(values.dropna().unique()) - {0, 1}):
                raise ValueError(f"{params.columns.target} is not binary: it has {strange[:3]} beside 0 and 1")
            return values.to_numpy(dtype=np.int64)
        case "multiclass":
            return values.astype("str").to_numpy(dtype=object)
        case "regression":
            return values.to_numpy(dtype=np.float64)


def empty_features(rows: pd.DataFrame, features: Sequence[Feature]) -> tuple[str, ...]:
    """The features without a value in any of *rows*. A model learns nothing from them, and some cannot be fitted on
    them, so they are left out until a training window has values again."""
    return tuple(f.name for f in features if rows[f.name].isna().all())


def fit_pipeline(params: Params, schema: Schema, rows: pd.DataFrame, project: Path) -> tuple[Pipeline, Scorer]:
    """A pipeline fitted on all of *rows*, and its scorer. It ignores features that `empty_features` names.

    Raises NotEnoughData when a classifier would see one class only or no feature has a value, and ParamsError.
    """
    from sklearn.utils._param_validation import InvalidParameterError

    features = features_of(params, schema)
    truth = labels_of(rows, params)
    if params.project.task != "regression" and len(set(truth.tolist())) < 2:
        raise NotEnoughData(f"every row to train on has the same {params.columns.target}: there is nothing to learn")
    table, empty = frame(rows, features), empty_features(rows, features)
    if len(empty) == len(features):
        raise NotEnoughData("no feature has a value in the rows to train on: look at what the source gives")
    model = build_pipeline(params, tuple(f for f in features if f.name not in empty), project)
    try:
        model.fit(table, truth)
    except InvalidParameterError as error:
        raise ParamsError(f"train.params: {error}") from None
    classes = [] if params.project.task == "regression" else model.classes_.tolist()
    return model, Scorer(model, task=params.project.task, features=features, classes=classes)


def fit_candidate(params: Params, schema: Schema, parts: Split, project: Path) -> Candidate:
    """Train on ``parts.train`` and measure on ``parts.holdout``.

    Raises NotEnoughData when the gate's metric is not defined on the holdout, and ParamsError.
    """
    import skops.io

    model, scorer = fit_pipeline(params, schema, parts.train, project)
    held = labels_of(parts.holdout, params)
    scores = scorer.score(parts.holdout)
    measured = {
        name: float(metrics.measure(name, held, scores)[0]) for name in metrics.TASK_METRICS[params.project.task]
    }
    if not np.isfinite(measured[params.gate.metric]):
        raise NotEnoughData(
            f"{params.gate.metric} is not defined on the {len(held)} rows kept to judge on, as when all of them have "
            f"the same {params.columns.target}: make train.holdout longer, or choose another gate.metric"
        )
    buffer = BytesIO()
    skops.io.dump(model, buffer)
    return Candidate(
        pipeline=model,
        scorer=scorer,
        content=buffer.getvalue(),
        importances=importances(scorer, parts.holdout, params),
        metrics={name: value for name, value in measured.items() if np.isfinite(value)},
        left_out=empty_features(parts.train, scorer.features),
    )


def importances(scorer: Scorer, rows: pd.DataFrame, params: Params) -> dict[str, float]:
    """Permutation importances: each feature's share of the loss in the gate's metric when its values are shuffled.

    At most IMPORTANCE_ROWS rows are used, with IMPORTANCE_REPEATS shuffles. The shares add up to 1 and are equal when
    no feature matters. Breiman, "Random Forests", Machine Learning 45, 2001, section 10.
    """
    rows = rows.sample(min(IMPORTANCE_ROWS, len(rows)), random_state=params.train.seed)
    table, truth = frame(rows, scorer.features), labels_of(rows, params)
    random, metric = np.random.default_rng(params.train.seed), params.gate.metric
    shuffled = (
        table.assign(**{feature.name: table[feature.name].to_numpy()[random.permutation(len(table))]})
        for feature in scorer.features
        for _ in range(IMPORTANCE_REPEATS)
    )
    # Many tables are scored in one call, which costs far less for each row.
    tables, at_once, values = chain([table], shuffled), max(1, IMPORTANCE_CELLS // table.size), list[float]()
    while batch := list(islice(tables, at_once)):
        scores = scorer.score_frame(pd.concat(batch, ignore_index=True))
        parts = np.arange(scores.size).reshape(len(batch), -1)
        values += [float(metrics.measure(metric, truth, scores.take(part))[0]) for part in parts]
    gains = metrics.gain(metric, np.array(values[0]), np.array(values[1:])).reshape(-1, IMPORTANCE_REPEATS)
    lost = dict(
        zip((f.name for f in scorer.features), np.clip(np.nan_to_num(gains).mean(axis=1), 0, None), strict=True)
    )
    total = sum(lost.values())
    return {name: float(loss / total) if total else 1 / len(lost) for name, loss in lost.items()}


def reference_sample(candidate: Candidate, parts: Split, params: Params) -> pd.DataFrame:
    """A sample of at most REFERENCE_ROWS rows before the cut for drift: the features, the target and `prediction`.

    Rows without a label are in it, as live rows are compared with it whether they get one or not.
    """
    rows = parts.seen.sample(min(REFERENCE_ROWS, len(parts.seen)), random_state=params.train.seed)
    rows = rows.sort_index().reset_index(drop=True)
    names = [f.name for f in candidate.scorer.features]
    scores = candidate.scorer.score(rows)
    return rows[[*names, params.columns.target]].assign(prediction=scores.prediction)


def levels_of(parts: Split, features: Sequence[Feature]) -> dict[str, list[str]]:
    """Every text that each category has in the rows of the window, sorted: what the release has met."""
    rows = pd.concat([parts.seen, parts.holdout])
    table = frame(rows, [f for f in features if f.kind == "category"])
    return {str(name): sorted(table[name].dropna().unique()) for name in table}
