"""Where telemetry lies below its root, and what the names say:

    predictions/wal/<segment>.wal                           being written, or finished and waiting
    predictions/parts/<segment>.<first>.<last>.parquet      the same rows, compacted; first and last data time (µs)
    predictions/merged/<segment>~<number>.<…>.parquet       the parts of one writer, up to that number, in one
    labels/..., pairs/...                                   the same for labels and pairs

    fetched/<stream>/<part or merged part>                  what the store has as well
    (`stores.telemetry.remote.replica`)

A segment that has a part counts by its part alone, and a part that was merged by the merged one alone, which is what
makes compaction safe to interrupt. A reader has to list in the order above: what turns into the next kind
meanwhile is then seen as one of the two."""

from __future__ import annotations

import os
import re
import time
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from stores.telemetry.wal.log import SUFFIX
from stores.telemetry.wal.streams import STREAMS, file_names, segments

PART_SUFFIX = ".parquet"
ROW_GROUP = 32_768  # rows
_PART = re.compile(
    r"(?P<writer>[^-.~]+)-(?P<number>\d+)(~(?P<last_number>\d+))?\.(?P<first>-?\d+)\.(?P<last>-?\d+)\.parquet"
)
_RECEIVED = re.compile(rb'"received":(\d+)')


@dataclass(frozen=True, order=True)
class ParquetPart:
    """Compacted segments of one writer, those numbered *number* to *last_number*, and the data times that they span,
    both ends included. One that is in a store has its *key* there, *size* and when it was *written_s*; *path* is where
    it is once it was fetched."""

    writer: str
    number: int
    last_number: int
    first_us: int
    last_us: int
    path: Path
    key: str | None = field(default=None, compare=False)
    size: int = field(default=0, compare=False)
    written_s: float | None = field(default=None, compare=False)

    @property
    def arrived_s(self) -> float:
        """When the last row of it can have arrived, or somewhat later. Raises FileNotFoundError."""
        return self.path.stat().st_mtime if self.written_s is None else self.written_s

    @property
    def segment(self) -> str:
        """The segment that it was made from, the first one if there were several."""
        return self.named(self.number)

    def named(self, number: int) -> str:
        """The name of this writer's segment with that number."""
        return f"{self.writer}-{number:06d}"

    def covers(self, segment: str) -> bool:
        """Whether *segment*'s rows are in it."""
        writer, number = writer_and_number(segment)
        return writer == self.writer and self.number <= number <= self.last_number

    def overlaps(self, start_us: int, end_us: int) -> bool:
        """Whether a row of ``[start, end)`` can be in it."""
        return self.first_us < end_us and start_us <= self.last_us

    def within(self, start_us: int, end_us: int) -> bool:
        """Whether all its rows are in ``[start, end)``."""
        return start_us <= self.first_us and self.last_us < end_us


class CompactedSegments:
    """Which segments some parts stand for."""

    def __init__(self, parts: Iterable[ParquetPart]) -> None:
        """*parts* must be those that count."""
        self._ranges: dict[str, list[tuple[int, int]]] = {}
        for part in sorted(parts):
            self._ranges.setdefault(part.writer, []).append((part.number, part.last_number))

    def __contains__(self, segment: str) -> bool:
        writer, number = writer_and_number(segment)
        ranges = self._ranges.get(writer, [])
        at = bisect_right(ranges, (number, 1 << 62)) - 1
        return at >= 0 and ranges[at][0] <= number <= ranges[at][1]


def writer_and_number(segment: str) -> tuple[str, int]:
    """The two halves of a segment's name."""
    writer, number = segment.split("-")
    return writer, int(number)


def parts_folder(root: Path, stream: str) -> Path:
    """Where *stream*'s parts are."""
    return root / stream / "parts"


def merged_folder(root: Path, stream: str) -> Path:
    """Where *stream*'s merged parts are."""
    return root / stream / "merged"


def fetched_folder(root: Path, stream: str) -> Path:
    """Where parts of *stream* are that the store has as well."""
    return root / "fetched" / stream


def part_path(root: Path, stream: str, segment: str, first_us: int, last_us: int) -> Path:
    """The name that a part must have."""
    return parts_folder(root, stream) / f"{segment}.{first_us}.{last_us}{PART_SUFFIX}"


def merged_path(root: Path, stream: str, parts: list[ParquetPart]) -> Path:
    """The name that the part must have that *parts*, neighbours of one writer in their order, become."""
    return merged_folder(root, stream) / merged_name(parts)


def merged_name(parts: list[ParquetPart]) -> str:
    """The same without its folder."""
    first_us, last_us = min(p.first_us for p in parts), max(p.last_us for p in parts)
    return f"{parts[0].segment}~{parts[-1].last_number:06d}.{first_us}.{last_us}{PART_SUFFIX}"


def parts(root: Path, stream: str) -> list[ParquetPart]:
    """All parts that count, in the order their writers and segments were begun."""
    return visible_parts(all_parts(root, stream))


def all_parts(root: Path, stream: str) -> list[ParquetPart]:
    """All parts, also those that others stand for."""
    single = _parts(parts_folder(root, stream))
    return [*single, *_parts(merged_folder(root, stream))]


def visible_parts(parts: Iterable[ParquetPart]) -> list[ParquetPart]:
    """Return those of *parts* that no other part covers, ordered by writer and first segment. Two parts of one writer
    are disjoint, or one covers the other. Of a part that is both local and remote, the local one is returned."""
    found: list[ParquetPart] = []
    for part in sorted(parts, key=lambda p: (p.writer, p.number, -p.last_number, p.key is not None)):
        if not found or found[-1].writer != part.writer or found[-1].last_number < part.last_number:
            found.append(part)
    return found


def superseded_parts(root: Path, stream: str) -> list[ParquetPart]:
    """Parts that a merged one stands for, left by a merge that was interrupted."""
    single = _parts(parts_folder(root, stream))
    gone = CompactedSegments(_parts(merged_folder(root, stream)))
    return [part for part in single if part.segment in gone]


def parse_part(name: str, folder: Path) -> ParquetPart | None:
    """Return the part with the file name *name* in *folder*, or None when the name is not a part's."""
    found = _PART.fullmatch(name)
    if found is None:
        return None
    number, first_us, last_us = int(found["number"]), int(found["first"]), int(found["last"])
    return ParquetPart(found["writer"], number, int(found["last_number"] or number), first_us, last_us, folder / name)


def _parts(folder: Path) -> list[ParquetPart]:
    return [part for name in file_names(folder) if (part := parse_part(name, folder)) is not None]


def pending_bytes(root: Path, *, with_parts: bool = False) -> int:
    """Bytes in segments that are not compacted yet; *with_parts*: and in parts that only this folder has."""
    total = 0
    for path in _pending(root, with_parts):
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def oldest_pending_s(root: Path, *, with_parts: bool = False) -> float:
    """Age of the oldest of those; 0 when there is none."""
    ages = [0.0]
    for path in _pending(root, with_parts):
        with suppress(FileNotFoundError):
            ages.append(time.time() - (_started_at_s(path) if path.suffix == SUFFIX else path.stat().st_mtime))
    return max(ages)


def _pending(root: Path, with_parts: bool) -> Iterator[Path]:
    for stream in STREAMS:
        yield from segments(root, stream).values()
        if with_parts:
            yield from (part.path for part in all_parts(root, stream))


def _started_at_s(path: Path) -> float:
    """When the first record of a segment was received."""
    with path.open("rb") as file:
        found = _RECEIVED.search(file.read(4096))
        return int(found[1]) / 1e6 if found else os.fstat(file.fileno()).st_mtime
