"""Merges many small parts of one writer in the object store. It can be interrupted at any line and run in several
processes at once: a merged part starts at a multiple of a power of 16 and has no gap, so any two parts are disjoint or
one covers the other, and readers use the covering one.

A gap (a segment without a complete record) leaves up to 15 parts of a level unmerged."""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection, Iterator
from itertools import groupby

from stores.object_store.store import NoSuchObject
from stores.telemetry.parquet import files
from stores.telemetry.parquet.files import ParquetPart
from stores.telemetry.parquet.merge import MOST_BYTES, concatenate
from stores.telemetry.remote.replica import FANOUT, SharedTelemetry, key_of

LEVELS = 5
QUIET_S = 3600.0  # after that long without a new part a writer is taken for gone; if it is not, nothing is lost


def compact_remote(
    mirror: SharedTelemetry, stream: str, *, own: Collection[str] = (), is_all: bool = True, quiet_s: float = QUIET_S
) -> int:
    """Merge what there is to merge of the writers in *own* and, with *is_all*, of those that are gone; returns how many
    parts were made. Removes what an interrupted merge left. Raises ObjectsError and OSError."""
    made, parts = 0, _compact_stream(mirror, stream)
    gone = {w for w, last_s in _last_written(parts).items() if is_all and last_s < time.time() - quiet_s}
    for level in range(1, LEVELS + 1):
        blocks = list(_blocks(parts, level, {*own, *gone}, gone))
        made += sum(_merge(mirror, stream, block) for block in blocks)
        parts = _compact_stream(mirror, stream) if blocks else parts
    return made


def _compact_stream(mirror: SharedTelemetry, stream: str) -> list[ParquetPart]:
    """The parts in the store that count; the others are removed."""
    listed = mirror.listed(stream)
    counting = files.visible_parts(listed)
    names = {part.path.name for part in counting}
    _remove(mirror, [part for part in listed if part.path.name not in names])
    return counting


def _last_written(parts: list[ParquetPart]) -> dict[str, float]:
    """When the store got each writer's last part."""
    last: dict[str, float] = {}
    for part in parts:
        last[part.writer] = max(part.arrived_s, last.get(part.writer, 0.0))
    return last


def _blocks(
    parts: list[ParquetPart], level: int, writers: Collection[str], gone: Collection[str]
) -> Iterator[list[ParquetPart]]:
    """Neighbours that become one part of *level*: all of its numbers or, of a writer that is gone, those there are, up
    to where a part of the level below ends (a part of that level, were it made, must not lie across the end)."""
    size = FANOUT**level
    wanted = (part for part in parts if part.writer in writers)
    for (writer, number), block in groupby(wanted, key=lambda part: (part.writer, part.number // size)):
        run = _run(list(block), number * size, size)
        is_complete = bool(run) and run[-1].last_number == (number + 1) * size - 1
        while run and (run[-1].last_number + 1) % (size // FANOUT):
            run.pop()
        if len(run) > 1 and (is_complete or writer in gone) and sum(part.size for part in run) <= MOST_BYTES:
            yield run


def _run(parts: list[ParquetPart], start: int, size: int) -> list[ParquetPart]:
    """Those of *parts* that follow one another without a gap from *start* on, and end before the block does."""
    run: list[ParquetPart] = []
    for part in parts:
        if part.number != (run[-1].last_number + 1 if run else start) or part.last_number >= start + size:
            break
        run.append(part)
    return run


def _merge(mirror: SharedTelemetry, stream: str, parts: list[ParquetPart]) -> bool:
    """False when another process was quicker."""
    folder = files.fetched_folder(mirror.root, stream)
    scratch = folder / f".{uuid.uuid4().hex}"
    try:
        mirror.download(parts)
        concatenate([part.path for part in parts], scratch)
        made = files.parse_part(files.merged_name(parts), folder)
        assert made is not None
        is_mine = mirror.objects.put(key_of(stream, made), scratch, if_absent=True)
        scratch.rename(made.path)
    except (NoSuchObject, FileNotFoundError):
        return False
    finally:
        scratch.unlink(missing_ok=True)
    _remove(mirror, parts)
    return is_mine


def _remove(mirror: SharedTelemetry, parts: list[ParquetPart]) -> None:
    """From the store, then from the folder."""
    if not parts:
        return
    mirror.objects.remove([part.key for part in parts if part.key is not None])
    for part in parts:
        part.path.unlink(missing_ok=True)
