"""Predictions and the labels that arrive later, joined by prediction id. Every answered prediction is here exactly
once, also after the server was killed. Written by `recorder` (through `journal`), kept small by `compaction`, read by
`reading`; how it lies on disk is `layout`'s business. Why it is built like this: docs/telemetry.md."""

from stores.telemetry.compaction import compact
from stores.telemetry.journal import Unwritable
from stores.telemetry.reading import Tally, joined, labels, predictions, tally
from stores.telemetry.recorder import LabelCounts, Recorder

__all__ = ["LabelCounts", "Recorder", "Tally", "Unwritable", "compact", "joined", "labels", "predictions", "tally"]
