"""What gets recorded: predictions that are about to be answered, labels that arrived, and, while a rollout runs, what
both models said of the same rows. One of these per server."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stores.telemetry.wal import ids as prediction_ids
from stores.telemetry.wal.encoding import encode
from stores.telemetry.wal.ids import data_time_us
from stores.telemetry.wal.log import Unwritable, WriteAheadLog
from stores.telemetry.wal.streams import LABELS, PAIRS, PREDICTIONS, wal_folder

LabelValue = str | int | float | bool
_REMEMBERED_LABELS = 50_000


@dataclass(frozen=True)
class LabelCounts:
    """What became of some labels: *accepted* were written; of these, *conflicts* replace a different one that this
    server remembers; *duplicates* say again what it remembers, and were not written."""

    accepted: int
    duplicates: int
    conflicts: int


@dataclass(frozen=True)
class Counters:
    """What a recorder has done in this life: rows written by stream, pairs *lost*, and how long its callers waited for
    records to be made and written, altogether and at most."""

    predictions: int = 0
    pairs: int = 0
    labels: int = 0
    lost_pairs: int = 0
    records: int = 0
    writing_s: float = 0.0
    longest_s: float = 0.0


class Recorder:
    """Writes telemetry below *root*. `predictions` and `labels` return only after the record is written whole, and
    raise Unwritable when it is not, so nothing may be answered that was not recorded. Pairs are evidence, and may be
    lost: `pairs` never raises."""

    def __init__(self, root: Path, *, roll_bytes: int = 8 * 1024 * 1024, roll_after_s: float = 3600) -> None:
        self.root = root
        writer = f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(4)}"
        self._predictions, self._labels, self._pairs = self._logs = tuple(
            WriteAheadLog(wal_folder(root, stream), writer, roll_bytes=roll_bytes, roll_after_s=roll_after_s)
            for stream in (PREDICTIONS, LABELS, PAIRS)
        )
        self._remembered: OrderedDict[str, int] = OrderedDict()  # ids, each with its label's hash
        self._lock = threading.Lock()
        self._counting = threading.Lock()
        self._totals: dict[str, Any] = asdict(Counters())
        self.pairs_failure: str | None = None

    def new_ids(self, times_us: Sequence[int] | Any) -> list[str]:
        """Ids for rows with these data times, to be given to `predictions` and `pairs`. Not recording them is fine."""
        return prediction_ids.new_ids(times_us)

    def predictions(
        self,
        *,
        release: str,
        arm: str,
        received_us: int,
        times_us: Sequence[int] | Any,
        numbers: Mapping[str, Any],
        texts: Mapping[str, Sequence[str | None]],
        prediction: Any,
        labels: Sequence[LabelValue] | None = None,
        probabilities: Any = None,
        rollout: str | None = None,
        propensity: float = 1.0,
        ids: Sequence[str] | None = None,
    ) -> list[str]:
        """Record predictions of one release; returns their ids, which are *ids* if these were taken before.

        *propensity* is the probability with which these rows' arm was chosen in *rollout*. Times may be an array,
        numbers float64 arrays (nan is missing). Raises Unwritable, and ValueError when lengths differ.
        """
        began = time.perf_counter()
        ids = prediction_ids.new_ids(times_us) if ids is None else list(ids)
        if not ids:
            return ids
        head = {
            "release": release,
            "arm": arm,
            "received": received_us,
            "rollout": rollout,
            "propensity": propensity,
            "predicted_label": None if labels is None else [str(label) for label in labels],
            "probabilities": probabilities,
        }
        floats = {"prediction": prediction, **numbers}
        payload = encode(head, ids=ids, times_us=times_us, floats=floats, texts=texts)
        first_us, last_us = _bounds(times_us)
        self._predictions.append(payload, first_us=first_us, last_us=last_us)
        self._count(began, predictions=len(ids))
        return ids

    def pairs(
        self,
        *,
        rollout: str,
        champion: str,
        challenger: str,
        received_us: int,
        ids: Sequence[str],
        times_us: Sequence[int] | Any,
        by_challenger: Sequence[bool] | Any | None,
        champion_prediction: Any,
        challenger_prediction: Any,
        champion_probabilities: Any = None,
        challenger_probabilities: Any = None,
        slices: Mapping[str, Sequence[str | None]] | None = None,
        errors: Sequence[str | None] | None = None,
        champion_us: float,
        challenger_us: float,
    ) -> bool:
        """Record what both models said of the same rows: predictions (nan: none), which of the two was answered
        (None: the champion's, always), the values of the slice columns, why a row's challenger has none, and how long
        the call to each model took. False, counted and noted in `pairs_failure`, when it could not be recorded."""
        began = time.perf_counter()
        head: dict[str, Any] = {
            "rollout": rollout,
            "champion": champion,
            "challenger": challenger,
            "received": received_us,
            "champion_us": champion_us,
            "challenger_us": challenger_us,
        }
        if champion_probabilities is not None:
            head["champion_probabilities"] = champion_probabilities
        if challenger_probabilities is not None:
            head["challenger_probabilities"] = challenger_probabilities
        if errors is not None:
            head["error"] = errors
        floats = {"champion_prediction": champion_prediction, "challenger_prediction": challenger_prediction}
        try:
            payload = encode(head, ids=ids, times_us=times_us, floats=floats, texts=slices or {}, flags=by_challenger)
            first_us, last_us = _bounds(times_us)
            self._pairs.append(payload, first_us=first_us, last_us=last_us)
        except (Unwritable, ValueError, TypeError) as error:
            self.pairs_failure = str(error)
            self._count(began, lost_pairs=len(ids))
            return False
        self.pairs_failure = None
        self._count(began, pairs=len(ids))
        return True

    def labels(
        self, ids: Sequence[str], labels: Sequence[LabelValue], *, received_us: int, times_us: Sequence[int | None]
    ) -> LabelCounts:
        """Record labels. The last one to arrive counts; saying the same again changes nothing."""
        import orjson

        began = time.perf_counter()
        with self._lock:
            fresh: dict[str, tuple[LabelValue, int | None]] = {}
            duplicates = conflicts = 0
            for name, label, at in zip(ids, labels, times_us, strict=True):
                before = _hash(fresh[name][0]) if name in fresh else self._remembered.get(name)
                if before == _hash(label):
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
                self._count(began, labels=len(fresh))
        return LabelCounts(len(ids) - duplicates, duplicates, conflicts)

    def _remember(self, fresh: Mapping[str, tuple[LabelValue, int | None]]) -> None:
        for name, (label, _) in fresh.items():
            self._remembered[name] = _hash(label)
            self._remembered.move_to_end(name)
        while len(self._remembered) > _REMEMBERED_LABELS:
            self._remembered.popitem(last=False)

    def _count(self, began: float, **rows: int) -> None:
        took = time.perf_counter() - began
        with self._counting:
            totals = self._totals
            for name, size in rows.items():
                totals[name] += size
            totals["records"] += 1
            totals["writing_s"] += took
            totals["longest_s"] = max(totals["longest_s"], took)

    @property
    def counters(self) -> Counters:
        """Where it stands now."""
        with self._counting:
            return Counters(**self._totals)

    @property
    def write_error(self) -> str | None:
        """Why telemetry cannot be written at present, or None."""
        return self._predictions.write_error or self._labels.write_error

    @property
    def written_bytes(self) -> int:
        """Bytes of records written in this life."""
        return sum(log.written_bytes for log in self._logs)

    def maintain(self) -> None:
        """To be called every second or so: look for room after a failure, finish segments that are due, sync."""
        for log in self._logs:
            if log.write_error is not None:
                log.probe()
            log.roll(only_if_due=True)
            log.sync()

    def roll(self) -> None:
        """Finish the open segments, so that `compaction.compact` can take them."""
        for log in self._logs:
            log.roll()
            log.sync()

    def close(self) -> None:
        """Finish; everything recorded stays readable."""
        for log in self._logs:
            log.close()


def _bounds(times_us: Any) -> tuple[int, int]:
    if hasattr(times_us, "tolist"):
        return int(times_us.min()), int(times_us.max())
    return min(times_us), max(times_us)


__all__ = ["Counters", "LabelCounts", "LabelValue", "Recorder", "Unwritable"]


def _hash(label: LabelValue) -> int:
    """Different for 1, 1.0 and True, which are equal, and for -1.0 and -2.0, whose own hashes are."""
    return hash(f"{type(label).__name__} {label!r}")
