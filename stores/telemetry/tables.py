"""Journal records as Arrow tables: one meaning for rows, whether they come from a segment or from a part."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

    from stores.telemetry.records import Record


def prediction_table(records: Iterable[Record]) -> pa.Table | None:
    """The predictions in *records*, or None when there are none. Requests of one shape share their columns' lists."""
    import orjson
    import pyarrow as pa

    shapes: dict[tuple[Any, ...], dict[str, list[Any]]] = {}
    kinds: dict[tuple[Any, ...], tuple[dict[str, Any], dict[str, Any]]] = {}
    for record in records:
        content = orjson.loads(record.payload)
        numbers, texts = content["numbers"], content["texts"]
        shape = (tuple(numbers), tuple(texts), content["predicted_label"] is None)
        if shape not in shapes:
            shapes[shape], kinds[shape] = {}, (numbers, texts)
        columns, size = shapes[shape], len(content["ids"])
        for name, values in _columns(content, size):
            if name in columns:
                columns[name] += values
            else:
                columns[name] = list(values)
    tables = [_prediction_table(columns, *kinds[shape]) for shape, columns in shapes.items()]
    return pa.concat_tables(tables, promote_options="permissive") if tables else None


def _columns(content: dict[str, Any], size: int) -> Iterable[tuple[str, Sequence[Any]]]:
    yield "prediction_id", content["ids"]
    yield "time", content["times"]
    for name in ("received", "release", "arm"):
        yield ("received_at" if name == "received" else name), [content[name]] * size
    yield "prediction", content["prediction"]
    if content["predicted_label"] is not None:
        yield "predicted_label", content["predicted_label"]
        yield "probabilities", content["probabilities"]
    yield from content["numbers"].items()
    yield from content["texts"].items()


def _prediction_table(columns: dict[str, list[Any]], numbers: Iterable[str], texts: Iterable[str]) -> pa.Table:
    import pyarrow as pa

    kinds: dict[str, Any] = {
        "prediction_id": pa.string(),
        "time": pa.timestamp("us", "UTC"),
        "received_at": pa.timestamp("us", "UTC"),
        "release": pa.string(),
        "arm": pa.string(),
        "prediction": pa.float64(),
        "predicted_label": pa.string(),
        "probabilities": pa.list_(pa.float64()),
        **dict.fromkeys(numbers, pa.float64()),
        **dict.fromkeys(texts, pa.string()),
    }
    return pa.table({name: pa.array(values, type=kinds[name]) for name, values in columns.items()})


def label_table(records: Iterable[Record]) -> pa.Table | None:
    """The labels in *records* in the order they arrived, or None. A label is a number (booleans too) or a text."""
    import orjson
    import pyarrow as pa

    ids: list[str] = []
    arrived: list[int] = []
    times: list[int | None] = []
    number: list[float | None] = []
    text: list[str | None] = []
    for record in records:
        content = orjson.loads(record.payload)
        ids += content["ids"]
        times += content["times"]
        arrived += [content["received"]] * len(content["ids"])
        number += [None if isinstance(v, str) else float(v) for v in content["labels"]]
        text += [v if isinstance(v, str) else None for v in content["labels"]]
    if not ids:
        return None
    return pa.table(
        {
            "prediction_id": pa.array(ids, pa.string()),
            "number": pa.array(number, pa.float64()),
            "text": pa.array(text, pa.string()),
            "label_time": pa.array(times, pa.timestamp("us", "UTC")),
            "received_at": pa.array(arrived, pa.timestamp("us", "UTC")),
        }
    )
