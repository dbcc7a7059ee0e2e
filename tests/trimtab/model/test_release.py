"""What makes a release the same, and what a manifest refuses."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import skops.io
from pydantic import ValidationError

from tests.serving.sample_project import COLUMNS, flights, tiny_pipeline
from trimtab.data.features import describe, frame
from trimtab.data.types import Columns
from trimtab.model.release import REQUIRED_FILES, Manifest, input_schema, model_digest

ROOT = Path(__file__).resolve().parents[3]


def fields(**changes: Any) -> dict[str, Any]:
    return {
        "project": "tiny",
        "task": "binary",
        "model_name": "tiny",
        "model_version": 1,
        "run_id": "r",
        "created_for": "2013-02",
        "features": [{"name": "distance", "kind": "number"}, {"name": "carrier", "kind": "category"}],
        "columns": COLUMNS,
        "classes": [0, 1],
        "model_digest": "0" * 64,
        "files": dict.fromkeys(REQUIRED_FILES, "0" * 64),
        **changes,
    }


def fitted(**options: Any) -> bytes:
    rows = flights()
    features = describe(rows, number=["distance", "hour"], category=["carrier"])
    return skops.io.dumps(tiny_pipeline(**options).fit(frame(rows, features), rows["late"]))  # type: ignore[no-any-return]


def digest(model: bytes) -> str:
    return model_digest(io.BytesIO(model))


def test_a_refit_has_the_same_digest() -> None:
    assert digest(fitted()) == digest(fitted())


def test_the_digest_looks_through_the_file_to_the_model() -> None:
    """Object ids and the order of the archive's members say nothing about a model; an array's bytes do."""
    model = fitted()
    with zipfile.ZipFile(io.BytesIO(model)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    assert digest(packed(dict(reversed(members.items())))) == digest(model)
    array = next(name for name in members if name.endswith(".npy"))
    assert digest(packed({**members, array: members[array][:-1] + b"!"})) != digest(model)


def packed(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def test_a_refit_on_another_number_of_threads_has_the_same_digest() -> None:
    script = "from tests.trimtab.model.test_release import *; print(digest(fitted()))"
    run = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == digest(fitted())


def test_another_model_has_another_digest() -> None:
    assert digest(fitted()) != digest(fitted(iterations=6))


def test_a_manifest_survives_the_journey_through_its_file() -> None:
    manifest = Manifest.model_validate(fields(metrics={"auc": float("nan"), "loss": 0.1 + 0.2}))
    again = Manifest.model_validate_json(manifest.canonical())
    assert again == manifest
    assert again.digest == manifest.digest
    assert again.metrics["auc"] is None


@pytest.mark.parametrize(
    "change",
    [
        {"model_version": 2},
        {"files": dict.fromkeys(REQUIRED_FILES, "1" * 64)},
        {"lineage": {"seed": 1}},
        {"classes": [1, 0]},
    ],
    ids=["version", "files", "lineage", "classes"],
)
def test_everything_in_the_manifest_counts_for_the_digest(change: dict[str, Any]) -> None:
    assert Manifest.model_validate(fields(**change)).digest != Manifest.model_validate(fields()).digest


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"surprise": 1}, "surprise"),
        ({"classes": [0]}, "1 classes"),
        ({"task": "regression"}, "2 classes"),
        ({"files": {"model.skops": "0" * 64}}, "a bundle needs"),
        ({"files": dict.fromkeys([*REQUIRED_FILES, "../x"], "0" * 64)}, "plain file name"),
        ({"features": [{"name": "late", "kind": "number"}]}, "cannot be features"),
        ({"features": [{"name": "prediction", "kind": "number"}]}, "rename the columns"),
        ({"features": [{"name": "a", "kind": "number"}] * 2}, "same name"),
        ({"features": [{"name": "a", "kind": "number", "values": "text"}]}, "cannot have text values"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_manifest_that_cannot_be_served_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Manifest.model_validate(fields(**change))


def test_the_input_schema_lists_what_a_row_may_hold() -> None:
    rows = flights()
    features = describe(rows, number=["distance", "hour"], category=["carrier"])
    schema = json.loads(input_schema(features, Columns(**COLUMNS)))
    assert set(schema["properties"]) == {"distance", "hour", "carrier", "scheduled", "flight", "tail"}
    assert schema["additionalProperties"] is False
