"""Predictions, the labels that arrive later, joined by prediction id, and, while a rollout runs, pairs: what champion
and challenger said of the same rows. Every answered prediction is here exactly once, also after the server was killed.
Written by `recorder` (through `journal`), kept small by `compaction`, read by `reading`; how it lies on disk is
`layout`'s business, what several machines share `mirror`'s. Why it is built like this:
docs/design/telemetry.md."""

from stores.telemetry.parquet.compaction import compact
from stores.telemetry.parquet.compaction_process import Compactor
from stores.telemetry.reader import PAIR_COLUMNS, Tally, joined, labels, pairs, predictions, tally
from stores.telemetry.remote.replica import Mirror, Where, where
from stores.telemetry.retention import forget
from stores.telemetry.wal.log import Unwritable
from stores.telemetry.wal.recorder import Counters, LabelCounts, Recorder

__all__ = [
    "PAIR_COLUMNS",
    "Compactor",
    "Counters",
    "LabelCounts",
    "Mirror",
    "Recorder",
    "Tally",
    "Unwritable",
    "Where",
    "compact",
    "forget",
    "joined",
    "labels",
    "pairs",
    "predictions",
    "tally",
    "where",
]
