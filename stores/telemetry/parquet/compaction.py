"""Finished segments become Parquet. Safe to interrupt at any line and to run in several processes at once: a part
appears whole, under a name that makes its segment void, before the segment is removed. Making few parts of many is
`stores.telemetry.parquet.merge`'s business, doing all this beside a server is
`stores.telemetry.parquet.compaction_process`'s."""

from __future__ import annotations

import fcntl
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from stores.telemetry.parquet import files
from stores.telemetry.parquet.schema import label_table, pair_table, prediction_table
from stores.telemetry.wal.framing import scan

if TYPE_CHECKING:
    import pyarrow as pa

ROW_GROUP = 32_768
_ABANDONED_AFTER_S = 3600
_CONVERT: dict[str, Callable[..., pa.Table | None]] = {
    files.PREDICTIONS: prediction_table,
    files.LABELS: label_table,
    files.PAIRS: pair_table,
}


def compact(root: Path) -> int:
    """Turn every finished segment below *root* into a part, and many small parts into few; returns how many segments
    there were. Segments in use are left alone.

    Raises OSError when there is no room; everything stays readable then, and a later call goes on.
    """
    from stores.telemetry.parquet.merge import merge

    done = 0
    for stream in files.STREAMS:
        done += compact_stream(root, stream)
        merge(root, stream)
    if done:
        give_back_memory()
    return done


def compact_stream(root: Path, stream: str) -> int:
    """Turn every finished segment of *stream* into a part; returns how many there were. Raises OSError."""
    compacted = files.Compacted(files.parts(root, stream))
    for folder in (files.parts_folder(root, stream), files.merged_folder(root, stream)):
        sweep(folder)
    found = files.segments(root, stream).items()
    return sum(_compact(root, stream, segment, path, exists=segment in compacted) for segment, path in found)


def finished(path: Path) -> bool:
    """Whether nobody writes to this segment any more, and nobody is compacting it."""
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


@contextmanager
def appearing(target: Path, *, mtime: float) -> Iterator[Path]:
    """A scratch path that becomes *target* when all went well: whole, on disk, and as old as what it was made from."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{uuid.uuid4().hex}")
    try:
        yield scratch
        fd = os.open(scratch, os.O_RDONLY)
        try:
            os.utime(fd, (mtime, mtime))
            os.fsync(fd)
        finally:
            os.close(fd)
        scratch.rename(target)
    finally:
        scratch.unlink(missing_ok=True)
    _sync_folder(target.parent)


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
        if status.st_size == 0 and time.time() - status.st_mtime < _ABANDONED_AFTER_S:
            return False  # its writer may be about to take the lock
        hole = False if exists else _write_part(root, stream, segment, path, mtime=status.st_mtime)
        if hole:
            set_aside = path.parent.parent / "damaged"
            set_aside.mkdir(exist_ok=True)
            path.rename(set_aside / path.name)
        else:
            path.unlink(missing_ok=True)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(fd)


def _write_part(root: Path, stream: str, segment: str, path: Path, *, mtime: float) -> bool:
    """Write the part of a segment; True when there was damage before its last whole record, which is worth keeping
    for a look. A torn tail is no damage: nothing in it was ever answered."""
    import pyarrow.parquet as pq

    records = list(scan(path.read_bytes()))
    table = _CONVERT[stream](records)
    if table is None:
        return False
    if stream == files.PREDICTIONS:
        table = table.sort_by([("time", "ascending")])
    first, last = min(r.first_us for r in records), max(r.last_us for r in records)
    with appearing(files.part_path(root, stream, segment, first, last), mtime=mtime) as scratch:
        pq.write_table(table, scratch, compression="zstd", row_group_size=ROW_GROUP)
    return records[-1].end != sum(r.end - r.start for r in records)


def give_back_memory() -> None:
    """Arrow keeps what it once needed; a server that compacts now and then has no use for it in between."""
    import pyarrow as pa

    pa.default_memory_pool().release_unused()


def sweep(folder: Path) -> None:
    """Remove what an interrupted compaction left; a fresh file may belong to one that is running. Parts are as old as
    their rows, so what counts is when the file was last touched."""
    if not folder.is_dir():
        return
    for path in folder.glob(".*"):
        try:
            if time.time() - path.stat().st_ctime > _ABANDONED_AFTER_S:
                path.unlink()
        except FileNotFoundError:
            continue


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
