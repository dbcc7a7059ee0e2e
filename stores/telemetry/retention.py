"""Deletes old telemetry. Nothing calls it by default: how long telemetry is kept is the operator's decision."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from stores.telemetry.parquet import files
from stores.telemetry.parquet.merge import exclusive
from stores.telemetry.remote.replica import TelemetryLocation, folder_of
from stores.telemetry.wal import streams


def delete_before(place: TelemetryLocation, before: datetime) -> int:
    """Remove the parts whose rows are all older than *before*, by their data time and by when they arrived, from the
    folder and from the store behind it; returns how many. What is not compacted yet stays. Safe to interrupt: it goes
    on with the next call."""
    moment = before if before.tzinfo else before.replace(tzinfo=UTC)
    before_s, root = moment.timestamp(), folder_of(place)
    return sum(_delete_local(root, s, before_s) + _delete_remote(place, s, before_s) for s in streams.STREAMS)


def _delete_local(root: Path, stream: str, before_s: float) -> int:
    if not files.parts_folder(root, stream).is_dir():
        return 0
    with exclusive(root, stream, wait=True):
        # What an interrupted compaction left would count again without the part that stands for it: it goes first.
        old = [p for p in [*files.superseded_parts(root, stream), *files.parts(root, stream)] if _is_old(p, before_s)]
        for part in old:
            _drop_segments(root, stream, part)
            part.path.unlink()
    return len(old)


def _delete_remote(place: TelemetryLocation, stream: str, before_s: float) -> int:
    if isinstance(place, Path):
        return 0
    old = [part for part in place.listed(stream) if _is_old(part, before_s)]
    counting = {part.path.name for part in files.visible_parts(old)}
    for part in old:
        _drop_segments(place.root, stream, part)
    for some in ([p for p in old if p.path.name not in counting], [p for p in old if p.path.name in counting]):
        place.objects.remove([part.key for part in some if part.key is not None])
        for part in some:
            part.path.unlink(missing_ok=True)
    return len(old)


def _is_old(part: files.ParquetPart, before_s: float) -> bool:
    return part.last_us < before_s * 1e6 and part.arrived_s < before_s


def _drop_segments(root: Path, stream: str, part: files.ParquetPart) -> None:
    for name, path in streams.segments(root, stream).items():
        if part.covers(name):
            path.unlink(missing_ok=True)
