"""A project whose nights can be played: the flights of a day are an object in a bucket, and from one day on everything
is different. Rows are the real ones; a night's drift is made of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from sources import flights
from trimtab.config.sections import ColumnsConfig
from trimtab.data.periods import Period
from trimtab.data.schema import Schema

START, FIRST_TRAIN = Period.parse("2013-04-08", "day"), Period.parse("2013-04-11", "day")
DRIFTS = 3  # the night whose day is unlike all before
PREFIX = "incoming"
PARAMS: dict[str, Any] = {
    "project": {"name": "nights", "task": "binary"},
    "source": {"target": f"s3://trimtab/{PREFIX}/{{period}}.parquet"},
    "columns": {
        "target": "late", "time": "scheduled", "id": "flight_id", "key": "tailnum",
        "number": ["departure_minute", "distance"], "category": ["carrier", "origin"],
    },
    "period": {"every": "day", "start": str(START), "first_train": str(FIRST_TRAIN), "label_delay": "6h"},
    "train": {"window": "all", "holdout": "1d", "params": {"max_iter": 20, "min_samples_leaf": 50}},
    "gate": {"metric": "roc_auc", "min": 0.1, "max_regression": 0.5},
    "monitor": {
        "sample": 2000, "persist": "1 of 1", "cooldown": 5,
        "drift": {"threshold": 0.3, "impact": 0.2, "prediction": 1.0}, "quality": {"max_drop": 0.4, "min_labels": 200},
    },
    "rollout": {
        "steps": [0.5], "margin": 0.2, "min_labels": 100, "min_answers": 50, "slices": {}, "horizon": "7d",
        "on_inconclusive": "promote", "probation": "1d",
    },
    "schedule": {"retrain": "0 2 * * *", "ingest": "30 1 * * *", "changes": "*/5 * * * *"},
    "alerts": [{"kind": "log"}],
}  # fmt: skip
RULES: dict[str, Any] = {
    "flight_id": {"kind": "id"}, "scheduled": {"kind": "time"},
    "late": {"kind": "number", "min": 0, "max": 1, "nullable": True},
    "tailnum": {"kind": "category", "nullable": True}, "departure_minute": {"kind": "number", "min": 0, "max": 1440},
    "distance": {"kind": "number", "min": 0, "max": 20000},
    "carrier": {"kind": "category"}, "origin": {"kind": "category"},
}  # fmt: skip


def columns() -> ColumnsConfig:
    """What each column is for."""
    return ColumnsConfig.model_validate(PARAMS["columns"])


def night(number: int) -> Period:
    """The day whose data the night with that *number*, from 1, brings."""
    return FIRST_TRAIN.shift(number)


def rows(day: Period) -> pd.DataFrame:
    """The day's flights; from the drifting night on they go three times as far, in half of the day."""
    names = [*columns().features, "late", "scheduled", "flight_id", "tailnum"]
    found = flights.load(day.start, day.end)[names]
    if day >= night(DRIFTS):
        found = found.assign(distance=found["distance"] * 3, departure_minute=found["departure_minute"] // 2)
    return found.reset_index(drop=True)


def batch(day: Period) -> bytes:
    """The day's object: only rows whose labels were known six hours after it."""
    into = BytesIO()
    rows(day).to_parquet(into, index=False)
    return into.getvalue()


def project(folder: Path) -> Path:
    """The project's folder, to be mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(PARAMS, sort_keys=False))
    (folder / "schema.yaml").write_text(Schema.model_validate({"columns": RULES}).dumps())
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


def every(seconds: float) -> dict[str, Any]:
    """A schedule of Prefect's for nights that are so long."""
    return {"interval": seconds, "anchor_date": (datetime.now(UTC) + timedelta(seconds=2)).isoformat()}
