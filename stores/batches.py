"""The rows of each period on disk, under `data/`: as they landed, what was accepted, what was not.

    data/landed/2013-03/<digest>.parquet        exactly what the source gave, never changed
    data/accepted/2013-03.parquet               the rows that training may see
    data/quarantined/2013-03/<digest>.parquet   the others, each with its reason

A file appears whole or not at all, and writing the same rows again changes nothing. DVC versions
the folder (`tasks.dataset`)."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

_PLAIN = frozenset(
    {"string", "boolean", "integer", "floating", "mixed-integer-float", "decimal", "date", "datetime", "empty"}
)


class NothingLanded(FileNotFoundError):
    """There is no such batch; the message says what to run."""


class BatchNotStored(OSError):
    """Rows could not be written; what was there before is untouched."""


@dataclass(frozen=True)
class LandedBatch:
    """A batch on disk; *digest* is the sha256 of its file."""

    period: str
    digest: str
    rows: int
    path: Path


def land(project: Path, period: str, frame: pd.DataFrame) -> LandedBatch:
    """Keep *frame* as the batch of *period*, named by its content."""
    content = _parquet(frame)
    digest = hashlib.sha256(content).hexdigest()
    path = project / "data" / "landed" / period / f"{digest}.parquet"
    if not _put(project, path, content):
        newest = max(map(_landed_at, path.parent.glob("*.parquet")))
        os.utime(path, ns=(newest + 1, newest + 1))  # it landed last, though it had landed before
    return LandedBatch(period, digest, len(frame), path)


def landed(project: Path, period: str, digest: str | None = None) -> LandedBatch:
    """The batch of *period* called *digest*, or the one that landed last. Raises NothingLanded."""
    folder = project / "data" / "landed" / period
    found = [folder / f"{digest}.parquet"] if digest else sorted(folder.glob("*.parquet"), key=_landed_at)
    if not found or not found[-1].exists():
        raise NothingLanded(
            f"no batch {f'{digest} ' if digest else ''}of {period} has landed under {folder}: run ingest for it first"
        )
    return read(period, found[-1].stem, found[-1])


def read(period: str, digest: str, path: Path) -> LandedBatch:
    """The batch *digest* in the file *path*, wherever that is."""
    import pyarrow.parquet

    return LandedBatch(period, digest, pyarrow.parquet.read_metadata(path).num_rows, path)


def accepted(project: Path, period: str) -> Path:
    """Where the rows of *period* are that training may see."""
    return project / "data" / "accepted" / f"{period}.parquet"


def quarantined(project: Path, period: str, digest: str) -> Path:
    """Where the refused rows of batch *digest* are."""
    return project / "data" / "quarantined" / period / f"{digest}.parquet"


def accept(project: Path, period: str, good: pd.DataFrame) -> bool:
    """Let training see *good* as the rows of *period*, instead of what was there. False when nothing changed."""
    return _put(project, accepted(project, period), _parquet(good))


def quarantine(project: Path, period: str, digest: str, bad: pd.DataFrame) -> bool:
    """Keep *bad* rows of batch *digest* with their reasons, and only those. False when nothing changed."""
    path = quarantined(project, period, digest)
    if bad.empty:
        was_there = path.exists()
        path.unlink(missing_ok=True)
        return was_there
    return _put(project, path, _parquet(bad))


def _landed_at(path: Path) -> int:
    return path.stat().st_mtime_ns


def _parquet(frame: pd.DataFrame) -> bytes:
    # Values that refuse to share a column type (a text among numbers) are kept as text: nothing is lost.
    mixed = {str(name): frame[name].astype("str") for name in frame if not _has_one_type(frame[name])}
    kept = frame.assign(**mixed).reset_index(drop=True)
    kept.attrs = {}  # they would be written into the file, and are no rows
    return bytes(kept.to_parquet(index=False))


def _has_one_type(values: pd.Series[Any]) -> bool:
    """Whether Parquet has a plain type for all of *values*: True beside None is a boolean column, and no text."""
    if values.dtype != object:
        return True
    import pyarrow as pa

    if pd.api.types.infer_dtype(values, skipna=True) not in _PLAIN:
        return False
    try:
        pa.array(values, from_pandas=True)
    except (pa.ArrowException, OverflowError):
        return False
    return True


def _put(project: Path, path: Path, content: bytes) -> bool:
    if path.exists() and path.read_bytes() == content:
        return False
    try:
        _replace(project, path, content)
    except OSError as error:
        raise BatchNotStored(
            f"{path} ({len(content):,} bytes) could not be written: {error.strerror}; make room or lift the limit, "
            "then run this again: what was there before is untouched"
        ) from error
    return True


def _replace(project: Path, path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not beside the file, where DVC would take a half-written one for data, unless `data/` is a disk of its own.
    waiting = project / ".dvc" / "tmp"
    waiting.mkdir(parents=True, exist_ok=True)
    if waiting.stat().st_dev != path.parent.stat().st_dev:
        waiting = path.parent
    handle, name = tempfile.mkstemp(dir=waiting, suffix=".parquet")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)
