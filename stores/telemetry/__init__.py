"""Telemetry: predictions, labels that arrive later and are joined by prediction id, and, during a rollout, pairs of the
champion's and the challenger's predictions for the same rows. Every served prediction is recorded exactly once, also
when the server is killed.

`wal` records, `parquet` compacts, `remote` shares through an object store, `reader` reads. docs/design/telemetry.md
explains the design."""

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
