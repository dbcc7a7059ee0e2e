"""Where telemetry lies below its root, and what the names say:

    predictions/journal/<segment>.wal                       being written, or finished and waiting
    predictions/parts/<segment>.<first>.<last>.parquet      the same rows, compacted; first and last data time (µs)
    labels/...                                              the same for labels

A segment whose part exists counts by its part alone, which is what makes compaction safe to interrupt."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from stores.telemetry.journal import SUFFIX

PREDICTIONS, LABELS = "predictions", "labels"
PART_SUFFIX = ".parquet"


@dataclass(frozen=True, order=True)
class Part:
    """A compacted segment and the data times it spans, both ends included."""

    segment: str
    first_us: int
    last_us: int
    path: Path

    def overlaps(self, start_us: int, end_us: int) -> bool:
        """Whether a row of ``[start, end)`` can be in it."""
        return self.first_us < end_us and start_us <= self.last_us

    def within(self, start_us: int, end_us: int) -> bool:
        """Whether all its rows are in ``[start, end)``."""
        return start_us <= self.first_us and self.last_us < end_us


def journal_folder(root: Path, stream: str) -> Path:
    """Where *stream*'s segments are."""
    return root / stream / "journal"


def parts_folder(root: Path, stream: str) -> Path:
    """Where *stream*'s parts are."""
    return root / stream / "parts"


def part_path(root: Path, stream: str, segment: str, first_us: int, last_us: int) -> Path:
    """The name that a part must have."""
    return parts_folder(root, stream) / f"{segment}.{first_us}.{last_us}{PART_SUFFIX}"


def segments(root: Path, stream: str) -> dict[str, Path]:
    """Segments by name, in the order they were begun."""
    names = sorted(n for n in _names(journal_folder(root, stream)) if n.endswith(SUFFIX))
    return {n.removesuffix(SUFFIX): journal_folder(root, stream) / n for n in names}


def parts(root: Path, stream: str) -> list[Part]:
    """All parts, in the order their segments were begun."""
    folder, found = parts_folder(root, stream), []
    for name in _names(folder):
        if name.endswith(PART_SUFFIX) and not name.startswith("."):
            segment, first, last = name.removesuffix(PART_SUFFIX).split(".")
            found.append(Part(segment, int(first), int(last), folder / name))
    return sorted(found)


def waiting_bytes(root: Path) -> int:
    """Bytes in segments that are not compacted yet."""
    total = 0
    for stream in (PREDICTIONS, LABELS):
        for path in segments(root, stream).values():
            try:
                total += path.stat().st_size
            except FileNotFoundError:
                continue
    return total


def oldest_waiting_s(root: Path) -> float:
    """Age of the oldest segment that is not compacted yet; 0 when there is none."""
    ages = [0.0]
    for stream in (PREDICTIONS, LABELS):
        ages += [time.time() - int(name[:12], 16) / 1000 for name in segments(root, stream)]
    return max(ages)


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []
