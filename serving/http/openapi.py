"""The OpenAPI description of the routes that `serving.http.asgi` answers without FastAPI."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from serving.codecs.arrow import MEDIA
from serving.http import schemas

_REF = "#/components/schemas/{model}"
_PROBLEMS = {
    "401": "a key is needed",
    "403": "the key does not open this path",
    "405": "only POST",
    "408": "the body did not arrive in time",
    "413": "too many rows or bytes",
    "422": "a row is invalid; the error says which, and why",
    "500": "the model failed",
    "503": "retry later: no release is live, telemetry cannot be written, too many requests wait, or a timeout",
}


def patch_openapi(app: FastAPI, live: Callable[[], tuple[dict[str, Any], dict[str, Any]] | None]) -> None:
    """Add these routes to the OpenAPI description of *app*. *live* returns the JSON Schema of a row of the live release
    and an example row, or None when no release is live."""

    def openapi() -> dict[str, Any]:
        schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        models: list[type[BaseModel]] = [
            *(schemas.PredictBody, schemas.PredictColumns, schemas.PredictResponse),
            *(schemas.LabelsBody, schemas.LabelsResponse, schemas.ErrorBody),
        ]
        _, found = models_json_schema([(model, "validation") for model in models], ref_template=_REF)
        known = schema.setdefault("components", {}).setdefault("schemas", {})
        known.update(found.get("$defs", {}))
        now = live()
        if now is not None:
            known.update(_as_live(known, now[0]))
        schema["paths"]["/predict"] = {"post": _predict(now[1] if now else None)}
        schema["paths"]["/labels"] = {"post": _labels()}
        return schema

    app.openapi = openapi  # type: ignore[method-assign]


def _as_live(known: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """The request models with the live release's row schema."""
    row = {name: value for name, value in row.items() if name != "$schema"}
    lists = {name: {"type": "array", "minItems": 1, "items": kind} for name, kind in row["properties"].items()}
    columns = {"type": "object", "minProperties": 1, "additionalProperties": False, "properties": lists}
    found: dict[str, Any] = {"Row": row}
    for name, field, shape in (
        ("PredictBody", "rows", {"type": "array", "minItems": 1, "items": _ref("Row")}),
        ("PredictColumns", "columns", columns | {"required": row.get("required", [])}),
    ):
        properties = known[name]["properties"]
        found[name] = {**known[name], "properties": {**properties, field: {**shape, "title": field.title()}}}
    return found


def _predict(row: dict[str, Any] | None) -> dict[str, Any]:
    arrow = {MEDIA.decode(): {"schema": {"type": "string", "format": "binary"}}}
    taken: dict[str, Any] = {"schema": {"anyOf": [_ref("PredictBody"), _ref("PredictColumns")]}}
    if row is not None:
        taken["schema"]["anyOf"].append(_ref("Row"))
        taken["examples"] = {
            "rows": {"value": {"rows": [row]}},
            "columns": {"value": {"columns": {name: [value] for name, value in row.items()}}},
        }
    return {
        "summary": "Predictions for one row or many",
        "description": "A single row may also be sent without a list around it, and many rows as an Arrow stream "
        "(not compressed), which is answered by columns id, probability (or value, or label and probabilities) and "
        "release if the header Accept asks for the same type. Rows that a challenger answered name "
        "its release. Keep the ids: labels need them.",
        "operationId": "predict",
        "requestBody": {"required": True, "content": {"application/json": taken, **arrow}},
        "responses": {
            "200": {
                "description": "Predictions; as an Arrow stream when Accept asks for one",
                "content": {"application/json": {"schema": _ref("PredictResponse")}, **arrow},
            },
            **_problems(),
        },
    }


def _labels() -> dict[str, Any]:
    return {
        "summary": "What predictions turned out to be, by their ids; late or twice without harm",
        "operationId": "labels",
        "requestBody": {"required": True, "content": {"application/json": {"schema": _ref("LabelsBody")}}},
        "responses": {
            "200": {"description": "Recorded", "content": {"application/json": {"schema": _ref("LabelsResponse")}}},
            **_problems(),
        },
    }


def _problems() -> dict[str, Any]:
    content = {"application/json": {"schema": _ref("ErrorBody")}}
    return {status: {"description": about, "content": content} for status, about in _PROBLEMS.items()}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": _REF.format(model=name)}
