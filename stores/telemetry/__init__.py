"""Predictions, the labels that arrive later, joined by prediction id, and, while a rollout runs, pairs: what champion
and challenger said of the same rows. Every answered prediction is here exactly once, also after the server was killed.
Written by `recorder` (through `journal`), kept small by `compaction`, read by `reading`; how it lies on disk is
`layout`'s business, what several machines share `mirror`'s. Why it is built like this:
docs/design/telemetry.md."""

from stores.telemetry.parquet.compaction_process import CompactionProcess, compact
from stores.telemetry.reader import PAIR_COLUMNS, LabelShare, count_labels, joined, labels, pairs, predictions
from stores.telemetry.remote.replica import SharedTelemetry, TelemetryLocation, open_telemetry
from stores.telemetry.retention import delete_before
from stores.telemetry.wal.log import Unwritable
from stores.telemetry.wal.recorder import Counters, LabelCounts, Recorder

__all__ = [
    "PAIR_COLUMNS",
    "CompactionProcess",
    "Counters",
    "LabelCounts",
    "LabelShare",
    "Recorder",
    "SharedTelemetry",
    "TelemetryLocation",
    "Unwritable",
    "compact",
    "count_labels",
    "delete_before",
    "joined",
    "labels",
    "open_telemetry",
    "pairs",
    "predictions",
]
