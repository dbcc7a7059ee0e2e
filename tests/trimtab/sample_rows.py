"""A small project: its params with any change, and rows in which one column matters and another does not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from trimtab.config.params import Params

PARAMS: dict[str, Any] = {
    "project": {"name": "small", "task": "binary"},
    "source": {"target": "rows:load"},
    "columns": {
        "target": "late", "time": "at", "id": "row", "key": "who",
        "number": ["strong", "noise"], "category": ["place"],
    },
    "period": {"every": "month", "start": "2013-01", "first_train": "2013-02"},
    "validate": {"max_bad_share": 0.3},
    "train": {"holdout": 1, "params": {"max_iter": 20}},
    "gate": {"metric": "roc_auc", "min": 0.5, "max_regression": 0.01, "min_slice_rows": 30, "resamples": 50},
}  # fmt: skip
METRIC = {"binary": "roc_auc", "multiclass": "accuracy", "regression": "r2"}


def params(**changes: Any) -> Params:
    """The small project's params; a section given here is laid over its own."""
    return Params.model_validate(merged(PARAMS, changes))


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """*base* with *changes* laid over it, sections in depth."""
    both = {**base, **changes}
    return {k: {**base[k], **v} if isinstance(v, Mapping) and isinstance(base.get(k), Mapping) else v
            for k, v in both.items()}  # fmt: skip


def rows(
    size: int = 600, *, task: str = "binary", seed: int = 0, start: str = "2013-01-01", days: int = 59
) -> pd.DataFrame:
    """*size* rows spread over *days*; `late` follows from `strong` alone."""
    random = np.random.default_rng(seed)
    strong, noise = random.normal(size=(2, size))
    value: Any = strong + random.normal(scale=0.3, size=size)
    if task == "binary":
        value = (value > 0).astype("float64")
    if task == "multiclass":
        value = np.array(["low", "middle", "high"])[np.digitize(value, [-0.5, 0.5])]
    moment = pd.Timestamp(start) + pd.to_timedelta(np.sort(random.uniform(0, days, size)), unit="D")
    return pd.DataFrame({
        "row": [f"r{start[:7]}-{i:05d}" for i in range(size)], "at": moment.astype("datetime64[us]"), "late": value,
        "who": random.choice(["ann", "bob", "cleo"], size), "strong": strong, "noise": noise,
        "place": random.choice(["here", "there"], size),
    })  # fmt: skip
