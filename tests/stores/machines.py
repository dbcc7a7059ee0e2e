"""Machines that record telemetry and have a store between them, and what there is of it to see."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from stores import telemetry
from stores.object_store.store import ObjectStore
from stores.telemetry import Recorder, SharedTelemetry
from stores.telemetry.parquet import files
from stores.telemetry.wal import streams
from tests.stores.test_telemetry import MARCH, label, send
from tests.stores.test_telemetry_pairs import pair


def record(
    place: SharedTelemetry, size: int, *, start: datetime = MARCH, recorder: Recorder | None = None
) -> list[str]:
    """As many segments of every stream, an hour of data apart, that belong to one writer."""
    recorder, ids = recorder or Recorder(place.root), list[str]()
    for hour in range(size):
        ids += send(recorder, start + timedelta(hours=hour))
        pair(recorder, 1, ids=ids[-1:], rollout=f"f{hour}")
        label(recorder, ids[-1:], hour, received_us=hour)
        recorder.roll()
    return ids


def seen(place: SharedTelemetry) -> list[list[str]]:
    """Ids in all three streams, with what is there twice."""
    streams = (telemetry.predictions(place), telemetry.pairs(place), telemetry.count_labels(place))
    first, second, third = streams
    return [sorted(first["prediction_id"]), sorted(second["prediction_id"]), [str(third.rows)]]


def expected(ids: list[str]) -> list[list[str]]:
    return [sorted(ids), sorted(ids), [str(len(ids))]]


def keys(objects: ObjectStore, stream: str = streams.PREDICTIONS) -> list[str]:
    return [found.key for found in objects.list(f"telemetry/{stream}/")]


def fetched(place: SharedTelemetry, stream: str = streams.PREDICTIONS) -> list[str]:
    folder = files.fetched_folder(place.root, stream)
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def writers(place: SharedTelemetry) -> set[str]:
    return {part.writer for part in place.listed(streams.PREDICTIONS)}


def die_at(patch: pytest.MonkeyPatch, step: str, when: str) -> None:
    """End the process, as it were, before or after (*when*) the next *step* at the store or in a folder."""
    kind: Any = ObjectStore if step in ("put", "remove") else Path
    really = getattr(kind, step)

    def die(*args: Any, **options: Any) -> None:
        if when == "after":
            really(*args, **options)
        raise KeyboardInterrupt

    patch.setattr(kind, step, die)
