"""What a folder's servers recorded goes to the store: finished segments become parts, parts are uploaded, and what is
there is kept in the folder only for a while. Safe to interrupt at any line and to do again: a part's name says which
rows are in it, and the store takes each name once. Doing it beside a server is
`stores.telemetry.remote.upload_process`'s task."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from stores.telemetry.parquet import files
from stores.telemetry.parquet.compaction import compact_stream, release_memory
from stores.telemetry.parquet.files import ParquetPart
from stores.telemetry.remote.compaction import compact_remote
from stores.telemetry.remote.replica import SharedTelemetry, key_of
from stores.telemetry.wal import streams

_AT_ONCE = 4
_COMPACT_OWN_S, _COMPACT_ALL_S = 20.0, 900.0


class Uploader:
    """Brings what is below *mirror*'s root to the store; for one process at a time."""

    def __init__(
        self, mirror: SharedTelemetry, *, compact_own_s: float = _COMPACT_OWN_S, compact_all_s: float = _COMPACT_ALL_S
    ) -> None:
        self._mirror = mirror
        self._own: set[str] = set()
        self._compact_own_s, self._compact_all_s = compact_own_s, compact_all_s
        self._compact_own_at = time.monotonic() + compact_own_s
        self._compact_all_at = time.monotonic() + compact_all_s

    def upload_pending(self) -> int:
        """Upload every finished part and return how many there were. Raises ObjectStoreError, and OSError when the disk
        is full; everything stays readable here and the next call continues."""
        trouble: Exception | None = None
        for stream in streams.STREAMS:
            try:
                compact_stream(self._mirror.root, stream)
            except Exception as error:  # noqa: BLE001 - raised below: first what can be uploaded is, which makes room
                trouble = error
        waiting = [(stream, part) for stream in streams.STREAMS for part in files.all_parts(self._mirror.root, stream)]
        if waiting:
            with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="upload") as pool:
                list(pool.map(lambda one: self._upload(*one), waiting))
            release_memory()
        if trouble is not None:
            raise trouble
        return len(waiting)

    def compact_if_due(self) -> None:
        """From time to time merge small objects, also those of stopped servers, and remove local copies that were not
        used recently (which needs no store). Raises as `upload_pending` does."""
        now = time.monotonic()
        is_all = now >= self._compact_all_at
        if not is_all and (now < self._compact_own_at or not self._own):
            return
        self._compact_own_at = now + self._compact_own_s
        if is_all:
            self._compact_all_at = now + self._compact_all_s
        try:
            for stream in streams.STREAMS:
                compact_remote(self._mirror, stream, own=self._own, is_all=is_all)
        finally:
            self._mirror.prune()

    def _upload(self, stream: str, part: ParquetPart) -> None:
        with suppress(FileNotFoundError):  # it was removed meanwhile
            self._mirror.objects.put(key_of(stream, part), part.path, if_absent=True)
            kept = files.fetched_folder(self._mirror.root, stream) / part.path.name
            kept.parent.mkdir(parents=True, exist_ok=True)
            os.utime(part.path, ns=(time.time_ns(), part.path.stat().st_mtime_ns))
            part.path.replace(kept)
            self._own.add(part.writer)
