"""Releases: the manifest, the digests that identify a release and a model, and the small files beside a model.

`stores.releases.bundle` writes and reads bundles; `serving` predicts with them."""

from __future__ import annotations

import hashlib
import json
import math
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from trimtab.data.features import Feature
from trimtab.data.labels import LabelRule, rule_of
from trimtab.data.types import RESERVED_NAMES, Columns, Label, Task

if TYPE_CHECKING:
    import pandas as pd

    from trimtab.model.scoring import Scores


MODEL, SCHEMA, REFERENCE, SAMPLES, CARD = "model.skops", "schema.json", "reference.parquet", "samples.json", "card.md"
BACKEND = "backend.json"  # how the model is executed: see `stores.releases.backend`
REQUIRED_FILES = frozenset({MODEL, SCHEMA, REFERENCE, SAMPLES, CARD, BACKEND})

_DIGEST = re.compile(r"[0-9a-f]{64}")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Manifest(BaseModel):
    """Everything about a release except the bytes of its files, whose digests it holds."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    format: Literal[1] = 1
    project: str
    task: Task
    model_name: str
    model_version: int = Field(ge=1)
    run_id: str
    created_for: str = Field(description="label of the last period the model was trained on")
    features: tuple[Feature, ...] = Field(min_length=1)
    columns: Columns
    classes: tuple[Label, ...] = Field((), description="labels; the positive one is last when the task is binary")
    spellings: tuple[str, str] | None = Field(
        None, description="negative and positive label, as the project writes them"
    )
    model_digest: str = Field(description="canonical digest of the model: equal for an equal refit")
    files: dict[str, str] = Field(description="sha256 of every other file of the bundle")
    trusted_types: tuple[str, ...] = ()
    metrics: dict[str, float | None] = {}
    lineage: dict[str, Any] = {}
    requirements: dict[str, str] = {}

    @field_validator("classes", mode="before")
    @classmethod
    def _plain_labels(cls, value: Any) -> Any:
        """Python scalars in place of numpy's, which ``classes_`` has."""
        return tuple(v.item() if hasattr(v, "item") else v for v in value)

    @field_validator("metrics", mode="before")
    @classmethod
    def _no_nan(cls, value: Mapping[str, Any]) -> dict[str, Any]:
        """None in place of NaN and infinity, which JSON lacks: the metric could not be computed."""
        return {k: None if v is None or not math.isfinite(v) else float(v) for k, v in value.items()}

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        names = [f.name for f in self.features]
        if len(set(names)) != len(names):
            raise ValueError("two features have the same name")
        others = {self.columns.time, self.columns.target} & set(names)
        if others:
            raise ValueError(f"time and target cannot be features: {sorted(others)}")
        recorded = {*names, self.columns.id, *([self.columns.key] if self.columns.key else [])}
        if taken := recorded & RESERVED_NAMES:
            raise ValueError(f"telemetry needs these names for itself, rename the columns: {sorted(taken)}")
        needed = {"binary": 2, "multiclass": 2, "regression": 0}[self.task]
        if len(self.classes) < needed or (self.task != "multiclass" and len(self.classes) > needed):
            raise ValueError(f"a {self.task} model cannot have {len(self.classes)} classes")
        if missing := REQUIRED_FILES - self.files.keys():
            raise ValueError(f"a bundle needs {sorted(missing)}")
        for name, digest in self.files.items():
            if not _PLAIN_NAME.fullmatch(name) or name == "manifest.json" or not is_digest(digest):
                raise ValueError(f"not a plain file name with a sha256: {name!r}: {digest!r}")
        return self

    @property
    def label_rule(self) -> LabelRule:
        """How labels of this release's predictions are read."""
        return rule_of(self.task, self.classes, spellings=self.spellings)

    def canonical(self) -> bytes:
        """The canonical JSON of the manifest, with sorted keys and no spaces. These bytes are manifest.json."""
        content = self.model_dump(mode="json")
        return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()

    @property
    def digest(self) -> str:
        """The sha256 of `canonical` in hex, which identifies the release. It covers every file through its digest."""
        return hashlib.sha256(self.canonical()).hexdigest()


def is_digest(text: str) -> bool:
    """Whether *text* is a sha256 in lower-case hex. Such a text is safe as a folder's name.

    >>> is_digest("a" * 64), is_digest("../" + "a" * 61)
    (True, False)
    """
    return _DIGEST.fullmatch(text) is not None


def model_digest(skops_file: Path | BinaryIO) -> str:
    """The canonical sha256 of a model in a skops file, in hex: equal for equal refits, on any machine.

    skops files of equal models differ in object ids, zip times and the number of training threads. So ids are
    renumbered in the order of appearance, members are replaced by the sha256 of their content, and the thread count
    is left out. Loading and saving a model changes the digest, so it is computed once, when the model is trained.
    """
    with zipfile.ZipFile(skops_file) as archive:
        order: dict[int, int] = {}

        def canonical(node: Any) -> Any:
            if isinstance(node, list):
                return [canonical(item) for item in node]
            if not isinstance(node, dict):
                return node
            result: dict[str, Any] = {}
            for key, value in node.items():
                if key == "__id__":
                    result[key] = order.setdefault(value, len(order))
                elif key == "file" and isinstance(value, str):
                    result[key] = hashlib.sha256(archive.read(value)).hexdigest()
                elif key != "n_threads":
                    result[key] = canonical(value)
            return result

        schema = canonical(json.loads(archive.read("schema.json")))
    return hashlib.sha256(json.dumps(schema, separators=(",", ":")).encode()).hexdigest()


def input_schema(features: Sequence[Feature], columns: Columns) -> bytes:
    """The bytes of schema.json: a JSON Schema of one row of `POST /predict`."""
    kinds = {"number": ["number"], "boolean": ["boolean"], "text": ["string", "integer"], "integer": ["integer"]}
    properties: dict[str, Any] = {
        f.name: {"type": [*kinds[f.values], *(["null"] if f.nullable else [])]} for f in features
    }
    time = {"type": ["string", "null"], "format": "date-time", "description": "data time, recorded; no feature"}
    properties.setdefault(columns.time, time)
    for name in filter(None, (columns.id, columns.key)):
        properties.setdefault(name, {"type": ["string", "integer", "null"], "description": "recorded; no feature"})
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": properties,
        "required": [f.name for f in features if not f.nullable],
        "additionalProperties": False,
    }
    return json.dumps(schema, indent=1).encode()


def sample_predictions(rows: pd.DataFrame, scores: Scores) -> bytes:
    """The bytes of samples.json: *rows*, a frame made by `features.frame`, with the model's predictions for them.

    Raises ValueError when their numbers differ.
    """
    table = rows.astype(object).where(rows.notna(), None)
    listed = [dict(zip(rows.columns, values, strict=True)) for values in table.itertuples(index=False, name=None)]
    if len(listed) != scores.size:
        raise ValueError(f"{len(listed)} rows with {scores.size} predictions")
    return json.dumps({"rows": listed, "predictions": scores.answers()}, allow_nan=False).encode()
