"""Converts finished segments to Parquet. It can be interrupted at any line and run in several processes at once: a part
appears complete, under a name that supersedes its segment, before the segment is removed."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from stores.atomic_files import ABANDONED_AFTER_S, sweep, write_atomically
from stores.telemetry.parquet import files
from stores.telemetry.parquet.schema import label_table, pair_table, prediction_table
from stores.telemetry.wal import streams
from stores.telemetry.wal.framing import scan

if TYPE_CHECKING:
    import pyarrow as pa

_CONVERT: dict[str, Callable[..., pa.Table | None]] = {
    streams.PREDICTIONS: prediction_table,
    streams.LABELS: label_table,
    streams.PAIRS: pair_table,
}


def compact_stream(root: Path, stream: str) -> int:
    """Turn every finished segment of *stream* into a part; returns how many there were. Raises OSError."""
    compacted = files.CompactedSegments(files.parts(root, stream))
    for folder in (files.parts_folder(root, stream), files.merged_folder(root, stream)):
        sweep(folder)
    found = streams.segments(root, stream).items()
    return sum(_compact(root, stream, segment, path, exists=segment in compacted) for segment, path in found)


def is_finished(path: Path) -> bool:
    """Whether no process writes to this segment or compacts it."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return os.fstat(fd).st_size > 0
    except BlockingIOError:
        return False
    finally:
        os.close(fd)


def _compact(root: Path, stream: str, segment: str, path: Path, *, exists: bool) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        status = os.fstat(fd)
        if status.st_nlink == 0:
            return False  # another process has just finished it
        if status.st_size == 0 and time.time() - status.st_mtime < ABANDONED_AFTER_S:
            return False  # its writer may be about to take the lock
        hole = False if exists else _write_part(root, stream, segment, path, mtime=status.st_mtime)
        if hole:
            damaged = path.parent.parent / "damaged"
            damaged.mkdir(exist_ok=True)
            path.rename(damaged / path.name)
        else:
            path.unlink(missing_ok=True)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(fd)


def _write_part(root: Path, stream: str, segment: str, path: Path, *, mtime: float) -> bool:
    """Write the part of a segment. Return True when a record before the last complete one is damaged, so that the
    segment is kept for inspection. A torn last record is no damage: its request was never answered."""
    import pyarrow.parquet as pq

    records = list(scan(path.read_bytes()))
    table = _CONVERT[stream](records)
    if table is None:
        return False
    if stream == streams.PREDICTIONS:
        table = table.sort_by([("time", "ascending")])
    first, last = min(r.first_us for r in records), max(r.last_us for r in records)
    with write_atomically(files.part_path(root, stream, segment, first, last), mtime=mtime) as scratch:
        pq.write_table(table, scratch, compression="zstd", row_group_size=files.ROW_GROUP)
    return records[-1].end != sum(r.end - r.start for r in records)


def release_memory() -> None:
    """Return Arrow's unused memory to the operating system."""
    import pyarrow as pa

    pa.default_memory_pool().release_unused()
