"""A small project, and its ingest and validate flows run as plain functions: real ledger, real DVC, real S3; only
Prefect's server and the pages that people look at are left out. Run as a program it is a flow run in a container."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from trimtab.data.schema import Schema

PARAMS: dict[str, Any] = {
    "project": {"name": "tiny", "task": "binary"},
    "source": {"target": "rows/{period}.csv"},
    "columns": {"target": "late", "time": "at", "id": "id", "number": ["x"]},
    "period": {"every": "month", "start": "2013-01", "first_train": "2013-02"},
    "train": {"holdout": "7d", "params": {"max_iter": 5}},
    "gate": {"metric": "roc_auc", "min": 0.5},
}
RULES = {
    "id": {"kind": "id"}, "at": {"kind": "time"}, "late": {"kind": "number", "min": 0, "max": 1},
    "x": {"kind": "number", "min": -10, "max": 10},
}  # fmt: skip


def rows(period: str, *, seed: int = 0, x: Mapping[int, float] | None = None) -> pd.DataFrame:
    """A month with a row every three hours; *x* replaces values by row."""
    at = pd.date_range(f"{period}-01", periods=8 * 28, freq="3h")
    value = np.random.default_rng(seed).normal(size=len(at))
    shown = [(x or {}).get(i, v) for i, v in enumerate(value)]
    late = (value > 0).astype(float)
    return pd.DataFrame({"id": [f"{period}-{i}" for i in range(len(at))], "at": at, "x": shown, "late": late})


def project(folder: Path, *periods: str, target: str | None = None) -> Path:
    """What an image holds of a project: params, schema, and here the source's rows; no `data/`."""
    (folder / "rows").mkdir(parents=True, exist_ok=True)
    for period in periods:
        rows(period).to_csv(folder / "rows" / f"{period}.csv", index=False)
    source = {"source": {"target": target}} if target else {}
    (folder / "params.yaml").write_text(yaml.safe_dump(PARAMS | source))
    (folder / "schema.yaml").write_text(Schema.model_validate({"columns": RULES}).dumps())
    return folder


def plainly(patch: Any = setattr) -> tuple[Any, Any, Any]:
    """The modules flows.ingest, flows.validate and operations.datasets, with their tasks as plain functions."""
    ingest, validate, datasets, ingestion, validation = (
        import_module(name)
        for name in (
            "flows.ingest", "flows.validate", "operations.datasets", "operations.ingestion", "operations.validation",
        )
    )  # fmt: skip
    for module, name in (
        (ingestion, "fetch"), (ingestion, "read_bucket"), (ingestion, "list_period"), (ingestion, "list_all"),
        (datasets, "next_version"),
    ):  # fmt: skip
        task = getattr(module, name)
        patch(module, name, getattr(task, "fn", task))
    for name in ("show", "announce"):
        patch(validation, name, lambda *_: None)
    patch(ingest, "validate", validate.validate.fn)
    return ingest, validate, datasets


def main(*periods: str) -> None:
    """Ingest *periods* one after the other once the file GO is there. With DIE, end at once instead of naming the
    first dataset version in the ledger."""
    ingest, _, _ = plainly()
    if "DIE" in os.environ:
        import_module("stores.ledger").Ledger.move_head = lambda *_, **__: os._exit(9)
    if "READY" in os.environ:
        Path(os.environ["READY"]).touch()
        while not Path(os.environ["GO"]).exists():
            time.sleep(0.01)
    for period in periods:
        ingest.ingest.fn(period)


if __name__ == "__main__":
    main(*sys.argv[1:])
