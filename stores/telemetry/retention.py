"""Forgetting what got old. Nothing does so by itself: how long telemetry has to be kept is not for us to say."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from stores.telemetry import layout
from stores.telemetry.merging import alone


def forget(root: Path, before: datetime) -> int:
    """Remove the parts whose rows are all older than *before*, by their data time and by when they arrived; returns
    how many. What is not compacted yet stays. Safe to interrupt: it goes on with the next call."""
    moment = before if before.tzinfo else before.replace(tzinfo=UTC)
    before_s, gone = moment.timestamp(), 0
    for stream in layout.STREAMS:
        if not layout.parts_folder(root, stream).is_dir():
            continue
        with alone(root, stream, wait=True):
            journal = layout.segments(root, stream)
            # What an interrupted compaction left would count again without the part that stands for it: it goes first.
            for part in [*layout.left_over(root, stream), *layout.parts(root, stream)]:
                if part.last_us >= before_s * 1e6 or part.path.stat().st_mtime >= before_s:
                    continue
                for path in (path for name, path in journal.items() if part.stands_for(name)):
                    path.unlink(missing_ok=True)
                part.path.unlink()
                gone += 1
    return gone
