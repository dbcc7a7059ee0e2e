"""Telemetry that several machines share: a local folder and the parts that all of them uploaded.

A part is at ``telemetry/<stream>/parts/<name>``, a merged one at ``telemetry/<stream>/merged/<level>/<name>``. A merged
part has a higher level than its sources, or the same level and a later name. So it is later in a listing, and a reader
that lists during a merge sees each row at least once."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from stores.object_store.store import ObjectStore
from stores.telemetry.parquet import files
from stores.telemetry.parquet.files import ParquetPart
from stores.telemetry.wal import streams

FOLDER = "telemetry"
FANOUT = 16  # how many parts of one level become one of the next
_AT_ONCE = 8
_UNUSED_AFTER_S = 3600.0
_LISTED_FOR_S = 1.0


class SharedTelemetry:
    """What is below *root*, and below ``telemetry/`` in *objects*; what is needed of the latter is fetched and kept for
    an hour. Safe to share between threads and processes."""

    def __init__(self, root: Path, objects: ObjectStore) -> None:
        self.root, self.objects = root, objects
        self._recent: dict[str, tuple[float, list[ParquetPart]]] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> tuple[Path, ObjectStore]:
        return self.root, self.objects

    def __setstate__(self, state: tuple[Path, ObjectStore]) -> None:
        SharedTelemetry.__init__(self, *state)

    def listed(self, stream: str) -> list[ParquetPart]:
        """All parts of *stream* in the store, also those that others stand for. Raises ObjectsError."""
        folder, found = files.fetched_folder(self.root, stream), []
        for kind in ("parts", "merged"):
            for one in self.objects.list(f"{FOLDER}/{stream}/{kind}/"):
                part = files.parse_part(one.key.rsplit("/", 1)[1], folder)
                if part is not None:
                    found.append(replace(part, key=one.key, size=one.size, written_s=one.modified.timestamp()))
        with self._lock:
            self._recent[stream] = (time.monotonic(), found)
        return found

    def listed_lately(self, stream: str) -> list[ParquetPart]:
        """The same as it was at most a second ago, for those who ask all the time."""
        with self._lock:
            at, found = self._recent.get(stream, (0.0, []))
        return found if at and time.monotonic() - at < _LISTED_FOR_S else self.listed(stream)

    def download(self, parts: Iterable[ParquetPart]) -> None:
        """Have these of the store's parts in the folder. Raises NoSuchObject when one was merged away or forgotten
        meanwhile, and ObjectsError."""
        missing = [part for part in parts if part.key is not None and not _touch(part.path)]
        if missing:
            self._prune_if_due()
        if len(missing) == 1:
            self._fetch(missing[0])
        elif missing:
            with ThreadPoolExecutor(min(_AT_ONCE, len(missing)), thread_name_prefix="fetch") as pool:
                list(pool.map(self._fetch, missing))

    def prune(self, *, unused_s: float = _UNUSED_AFTER_S) -> None:
        """Remove what was fetched, or uploaded, and not used for so long; the store has it."""
        for stream in streams.STREAMS:
            folder = files.fetched_folder(self.root, stream)
            with suppress(FileNotFoundError):
                for entry in os.scandir(folder):
                    with suppress(FileNotFoundError):
                        if time.time() - entry.stat().st_atime > unused_s:
                            Path(entry.path).unlink()

    def _prune_if_due(self) -> None:
        """Where no server runs that would do it."""
        stamp = self.root / "fetched" / ".pruned"
        stamp.parent.mkdir(parents=True, exist_ok=True)
        if not stamp.exists() or time.time() - stamp.stat().st_mtime > _UNUSED_AFTER_S / 6:
            stamp.touch()
            self.prune()

    def _fetch(self, part: ParquetPart) -> None:
        assert part.key is not None
        assert part.written_s is not None
        self.objects.fetch(part.key, part.path)
        with suppress(FileNotFoundError):
            os.utime(part.path, (time.time(), part.written_s))


TelemetryLocation: TypeAlias = Path | SharedTelemetry


def open_telemetry(root: Path, objects: ObjectStore | None) -> TelemetryLocation:
    """The folder alone, or with the store behind it."""
    return root if objects is None else SharedTelemetry(root, objects)


def folder_of(place: TelemetryLocation) -> Path:
    """The folder."""
    return place.root if isinstance(place, SharedTelemetry) else place


def parts(place: TelemetryLocation, stream: str) -> list[ParquetPart]:
    """Return all visible parts of *stream*. A caller that also needs segments must list those first."""
    if isinstance(place, Path):
        return files.parts(place, stream)
    local = files.all_parts(place.root, stream)
    return files.visible_parts([*local, *place.listed(stream)])


def download(place: TelemetryLocation, wanted: Sequence[ParquetPart]) -> None:
    """See `SharedTelemetry.download`."""
    if isinstance(place, SharedTelemetry):
        place.download(wanted)


def key_of(stream: str, part: ParquetPart) -> str:
    """Where *part* belongs in the store."""
    name, level = part.path.name, 0
    while FANOUT**level <= part.last_number - part.number:
        level += 1
    return f"{FOLDER}/{stream}/merged/{level}/{name}" if level else f"{FOLDER}/{stream}/parts/{name}"


def _touch(path: Path) -> bool:
    """Note that a file is in use, if it is there."""
    try:
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
    except FileNotFoundError:
        return False
    return True
