"""What gets recorded: predictions that are about to be answered, and labels that arrived. One of these per server."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stores.telemetry.ids import Ids, data_time_us
from stores.telemetry.journal import Journal, Unwritable
from stores.telemetry.layout import LABELS, PREDICTIONS, journal_folder

LabelValue = str | int | float | bool
_REMEMBERED_LABELS = 50_000


@dataclass(frozen=True)
class LabelCounts:
    """What became of some labels: *accepted* were written; of these, *conflicts* replace a different one that this
    server remembers; *duplicates* say again what it remembers, and were not written."""

    accepted: int
    duplicates: int
    conflicts: int


class Recorder:
    """Writes telemetry below *root*. Both `predictions` and `labels` return only after the record is written whole,
    and raise Unwritable when it is not, so nothing may be answered that was not recorded."""

    def __init__(self, root: Path, *, roll_bytes: int = 8 * 1024 * 1024, roll_after_s: float = 3600) -> None:
        self.root = root
        self._ids = Ids()
        writer = f"{time.time_ns() // 1_000_000:012x}{self._ids.take([0])[0][10:18]}"
        self._predictions, self._labels = (
            Journal(journal_folder(root, stream), writer, roll_bytes=roll_bytes, roll_after_s=roll_after_s)
            for stream in (PREDICTIONS, LABELS)
        )
        self._remembered: OrderedDict[str, LabelValue] = OrderedDict()
        self._lock = threading.Lock()

    def predictions(
        self,
        *,
        release: str,
        arm: str,
        received_us: int,
        times_us: Sequence[int],
        numbers: Mapping[str, Any],
        texts: Mapping[str, Sequence[str | None]],
        prediction: Any,
        labels: Sequence[LabelValue] | None = None,
        probabilities: Any = None,
    ) -> list[str]:
        """Record one request's predictions; returns their ids. Arrays must be C-contiguous."""
        import orjson

        ids = self._ids.take(times_us)
        content = {
            "release": release,
            "arm": arm,
            "received": received_us,
            "ids": ids,
            "times": times_us,
            "prediction": prediction,
            "predicted_label": None if labels is None else [str(label) for label in labels],
            "probabilities": probabilities,
            "numbers": numbers,
            "texts": texts,
        }
        payload = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
        self._predictions.append(payload, first_us=min(times_us), last_us=max(times_us))
        return ids

    def labels(
        self, ids: Sequence[str], labels: Sequence[LabelValue], *, received_us: int, times_us: Sequence[int | None]
    ) -> LabelCounts:
        """Record labels. The last one to arrive counts; saying the same again changes nothing."""
        import orjson

        with self._lock:
            fresh: dict[str, tuple[LabelValue, int | None]] = {}
            duplicates = conflicts = 0
            for name, label, at in zip(ids, labels, times_us, strict=True):
                before = fresh[name][0] if name in fresh else self._remembered.get(name)
                if before is not None and before == label and type(before) is type(label):
                    duplicates += 1
                    continue
                conflicts += before is not None
                fresh[name] = (label, at)
            if fresh:
                content = {
                    "received": received_us,
                    "ids": list(fresh),
                    "labels": [label for label, _ in fresh.values()],
                    "times": [at for _, at in fresh.values()],
                }
                seconds = [data_time_us(name) for name in fresh]
                self._labels.append(orjson.dumps(content), first_us=min(seconds), last_us=max(seconds))
                self._remember(fresh)
        return LabelCounts(len(ids) - duplicates, duplicates, conflicts)

    def _remember(self, fresh: Mapping[str, tuple[LabelValue, int | None]]) -> None:
        for name, (label, _) in fresh.items():
            self._remembered[name] = label
            self._remembered.move_to_end(name)
        while len(self._remembered) > _REMEMBERED_LABELS:
            self._remembered.popitem(last=False)

    @property
    def failure(self) -> str | None:
        """Why telemetry cannot be written at present, or None."""
        return self._predictions.failure or self._labels.failure

    @property
    def written_bytes(self) -> int:
        """Bytes of records written in this life."""
        return self._predictions.written_bytes + self._labels.written_bytes

    def maintain(self) -> None:
        """To be called every second or so: look for room after a failure, sync, finish segments that are due."""
        for journal in (self._predictions, self._labels):
            if journal.failure is not None:
                journal.probe()
            journal.sync()
            journal.roll(only_if_due=True)

    def roll(self) -> None:
        """Finish the open segments, so that `compaction.compact` can take them."""
        for journal in (self._predictions, self._labels):
            journal.roll()
            journal.sync()

    def close(self) -> None:
        """Finish; everything recorded stays readable."""
        self._predictions.close()
        self._labels.close()


__all__ = ["LabelCounts", "LabelValue", "Recorder", "Unwritable"]
