"""Small real models in real bundles; imported by the tests of stores and trimtab as well."""

from __future__ import annotations

import io
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import skops.io
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OrdinalEncoder

from stores.releases.backend import verify_backend
from stores.releases.bundle import ALLOWED_TYPES, Bundle, write_bundle
from trimtab.data import types
from trimtab.data.features import describe, frame
from trimtab.data.types import Task
from trimtab.model import release
from trimtab.model.scoring import Scorer

COLUMNS = {"time": "scheduled", "id": "flight", "key": "tail", "target": "late"}


def flights(rows: int = 400, seed: int = 0) -> pd.DataFrame:
    """Synthetic rows whose target depends on distance and carrier; some values are missing."""
    rng = np.random.default_rng(seed)
    distance = rng.uniform(100, 2500, rows).round()
    carrier = rng.choice(["AA", "UA", "DL"], rows)
    late = (distance / 2500 + (carrier == "UA") * 0.4 + rng.normal(0, 0.3, rows)) > 0.8
    return pd.DataFrame(
        {
            "scheduled": pd.date_range("2013-03-01", periods=rows, freq="37min", tz="UTC"),
            "flight": [f"F{i}" for i in range(rows)],
            "tail": [f"N{i % 40}" for i in range(rows)],
            "distance": np.where(rng.random(rows) < 0.05, np.nan, distance),
            "hour": rng.integers(5, 23, rows),
            "carrier": pd.Series(carrier, dtype="str").mask(rng.random(rows) < 0.05),
            "late": late.astype(int),
        }
    )


def tiny_pipeline(task: Task = "binary", *, seed: int = 0, iterations: int = 5) -> Pipeline:
    """The pipeline that the training flow makes by default."""
    encode = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan, encoded_missing_value=np.nan)
    columns = ColumnTransformer([("c", encode, ["carrier"]), ("n", "passthrough", ["distance", "hour"])])
    kind = HistGradientBoostingRegressor if task == "regression" else HistGradientBoostingClassifier
    return make_pipeline(
        columns, kind(categorical_features=[True, False, False], max_iter=iterations, random_state=seed)
    )


def tiny_bundle(
    folder: Path,
    *,
    task: Task = "binary",
    version: int = 1,
    seed: int = 0,
    wrong_samples: bool = False,
    model: Any = None,
    trusted: Collection[str] = (),
    extra: str | None = None,
) -> Bundle:
    """Train a model and write a bundle of *version* to *folder*. *model* replaces the usual pipeline, and *trusted* are
    its own types; *extra* is an additional numeric feature."""
    rows = flights(seed=seed)
    names = ["distance", "hour"]
    if extra is not None:
        rows, names = rows.assign(**{extra: rows["hour"] % 3}), [*names, extra]
    features = describe(rows, number=names, category=["carrier"])
    target: Any = {"binary": rows["late"], "regression": rows["hour"] * 1.5, "multiclass": rows["tail"].str[-1]}[task]
    table = frame(rows, features)
    pipeline = (model or tiny_pipeline(task, seed=seed)).fit(table, target)
    classes = () if task == "regression" else tuple(pipeline.classes_)
    model = skops.io.dumps(pipeline)
    scorer = Scorer(
        pipeline, task=task, features=features, classes=[c.item() if hasattr(c, "item") else c for c in classes]
    )
    scores = scorer.score(table)
    reference = io.BytesIO()
    table.assign(prediction=scores.prediction).to_parquet(reference, index=False)
    columns = types.Columns(**COLUMNS)
    _, record = verify_backend(scorer, table)
    shown = scorer.score(table.iloc[20:40]) if wrong_samples else scorer.score(table.head(20))
    return write_bundle(
        folder,
        manifest_fields={
            "project": "tiny",
            "task": task,
            "model_name": "tiny",
            "model_version": version,
            "run_id": f"run-{version}",
            "created_for": "2013-02",
            "features": features,
            "columns": columns,
            "classes": classes,
            "model_digest": release.model_digest(io.BytesIO(model)),
            "trusted_types": sorted({*ALLOWED_TYPES, *trusted}),
            "metrics": {"roc_auc": 0.7},
            "lineage": {"seed": seed},
        },
        files={
            release.MODEL: model,
            release.SCHEMA: release.input_schema(features, columns),
            release.REFERENCE: reference.getvalue(),
            release.SAMPLES: release.sample_predictions(table.head(20), shown),
            release.CARD: b"# tiny\n",
            release.BACKEND: record.model_dump_json().encode(),
        },
    )
