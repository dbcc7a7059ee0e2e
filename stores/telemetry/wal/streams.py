"""The streams of telemetry, and where their segments are."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from stores.telemetry.wal.log import SUFFIX

PREDICTIONS, LABELS, PAIRS = STREAMS = ("predictions", "labels", "pairs")


def wal_folder(root: Path, stream: str) -> Path:
    """Return the folder of *stream*'s segments."""
    return root / stream / "wal"


def segments(root: Path, stream: str) -> dict[str, Path]:
    """Return the segments of *stream* by name, oldest first."""
    folder = wal_folder(root, stream)
    names = sorted(name for name in file_names(folder) if name.endswith(SUFFIX))
    return {name.removesuffix(SUFFIX): folder / name for name in names}


def file_names(folder: Path) -> list[str]:
    """Return the names in *folder*; none when it does not exist."""
    with suppress(FileNotFoundError):
        return os.listdir(folder)
    return []
