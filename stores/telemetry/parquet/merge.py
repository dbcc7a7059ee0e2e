"""Merges many small parts of one writer, so that there are fewer files to list and open. It can be interrupted: the
merged part appears complete, under a name that supersedes its sources, before they are removed."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from stores.atomic_files import write_atomically
from stores.telemetry.parquet import files
from stores.telemetry.wal import streams

if TYPE_CHECKING:
    import pyarrow as pa

FEWEST, MOST = 16, 64
MOST_BYTES = 128 * 1024 * 1024


def merge(root: Path, stream: str) -> int:
    """Merge runs of 16 to 64 consecutive parts into one each. Return how many were made. One process at a time."""
    if not files.parts_folder(root, stream).is_dir():
        return 0
    with exclusive(root, stream) as free:
        if not free:
            return 0
        for part in files.superseded_parts(root, stream):
            part.path.unlink(missing_ok=True)
        groups = list(_groups(files.parts(root, stream), set(streams.segments(root, stream))))
        for parts in groups:
            _merge(root, stream, parts)
            for part in parts:
                part.path.unlink(missing_ok=True)
        return len(groups)


def _groups(parts: list[files.ParquetPart], waiting: set[str]) -> Iterator[list[files.ParquetPart]]:
    """Neighbours of one writer, none of which is merged yet, with nothing between them that is still a segment."""
    for _, mine in groupby(parts, key=lambda part: part.writer):
        group: list[files.ParquetPart] = []
        for part in mine:
            gap = range(group[-1].number if group else part.number, part.number + 1)
            alone = part.last_number != part.number or any(part.named(number) in waiting for number in gap)
            if alone or len(group) == MOST or _bytes(group) > MOST_BYTES:
                if len(group) >= FEWEST:
                    yield group
                group = []
            if not alone:
                group.append(part)
        if len(group) >= FEWEST:
            yield group


def _bytes(parts: list[files.ParquetPart]) -> int:
    return sum(part.path.stat().st_size for part in parts)


def _merge(root: Path, stream: str, parts: list[files.ParquetPart]) -> None:
    newest = max(part.path.stat().st_mtime for part in parts)
    with write_atomically(files.merged_path(root, stream, parts), mtime=newest) as scratch:
        concatenate([part.path for part in parts], scratch)


def concatenate(paths: Sequence[Path], target: Path) -> None:
    """Concatenate Parquet files in order, about 30,000 rows at a time. A column that a file lacks is null in its
    rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.unify_schemas([pq.read_schema(path) for path in paths], promote_options="permissive")
    waiting: list[pa.Table] = []
    with pq.ParquetWriter(target, schema, compression="zstd") as writer:
        for table in _groups_of_rows(paths):
            if waiting and sum(t.num_rows for t in waiting) + table.num_rows > files.ROW_GROUP:
                writer.write_table(pa.concat_tables(waiting))
                waiting = []
            waiting.append(_conform(table, schema))
        writer.write_table(pa.concat_tables(waiting))


def _groups_of_rows(paths: Sequence[Path]) -> Iterator[pa.Table]:
    import pyarrow.parquet as pq

    for path in paths:
        with pq.ParquetFile(path) as file:
            for number in range(file.num_row_groups):
                yield file.read_row_group(number, use_threads=False)


def _conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    import pyarrow as pa

    columns = [
        table[field.name].cast(field.type) if field.name in table.column_names else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


@contextmanager
def exclusive(root: Path, stream: str, *, wait: bool = False) -> Iterator[bool]:
    """Yield whether this process alone may remove parts of *stream* until the block ends. The kernel releases the lock
    when its holder dies."""
    fd = os.open(root / stream / "removing.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except BlockingIOError:
            free = False
        yield free
    finally:
        os.close(fd)
