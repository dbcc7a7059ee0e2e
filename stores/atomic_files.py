"""Files that appear whole or not at all, and survive a power cut. A crash leaves at most hidden scratch files, which
`sweep` removes later."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

ABANDONED_AFTER_S: Final = 3600.0
"""Age at which a scratch file is taken to belong to no running process."""


@contextmanager
def write_atomically(target: Path, *, mtime: float | None = None, is_durable: bool = True) -> Iterator[Path]:
    """Yield a scratch path that is renamed to *target* when the block ends without an error.

    The content is flushed to disk before the rename. With *is_durable* the folder is flushed after it as well, so the
    name survives a power cut; a cache does without. *mtime* (seconds since 1970) becomes the file's modification time.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{uuid.uuid4().hex}")
    try:
        yield scratch
        handle = os.open(scratch, os.O_RDONLY)
        try:
            if mtime is not None:
                os.utime(handle, (mtime, mtime))
            os.fsync(handle)
        finally:
            os.close(handle)
        scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)
    if is_durable:
        sync_folder(target.parent)


def write_durably(path: Path, content: bytes) -> None:
    """Write *content* to the new file *path* and flush it to disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Flush the names in *folder* to disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sweep(folder: Path, pattern: str = ".*", *, older_s: float = ABANDONED_AFTER_S) -> None:
    """Remove the scratch files and folders in *folder* that match the glob *pattern* and were last changed more than
    *older_s* seconds ago. A newer one may belong to a process that is still writing it.

    The change time counts, since the modification time may have been set to that of older content.
    """
    if not folder.is_dir():
        return
    for path in folder.glob(pattern):
        try:
            if time.time() - path.stat().st_ctime <= older_s:
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()
        except FileNotFoundError:
            continue
