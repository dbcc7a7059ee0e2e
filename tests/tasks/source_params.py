"""Params of a small project whose rows have an id and a number, for a source of your choice."""

from __future__ import annotations

from typing import Any

from tests.trimtab.sample_rows import PARAMS
from trimtab.config.params import Params


def source_params(target: str, **csv: Any) -> Params:
    """Params that read *target*; *csv* says how its CSV files are written."""
    columns = {"target": "late", "time": "at", "id": "id", "number": ["x"], "category": []}
    content = {**PARAMS, "columns": columns, "source": {"target": target, "csv": csv}}
    content["gate"] = {**content["gate"], "slices": {}}
    content.pop("rollout", None)
    return Params.model_validate(content)
