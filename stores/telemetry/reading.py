"""Reading telemetry, from any process, without asking a server: everything answered so far is there. Times select by
data time, and what lies outside is not opened, so a period costs the same however many others are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stores.telemetry import layout
from stores.telemetry.records import Record, scan
from stores.telemetry.tables import label_table, prediction_table

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

When = datetime | str | None
_SECOND = 1_000_000
_EVER = (-(2**62) // _SECOND * _SECOND, 2**62 // _SECOND * _SECOND)
_PREDICTION_COLUMNS = ("prediction_id", "time", "received_at", "release", "arm", "prediction")
_LABEL_COLUMNS = ("prediction_id", "label", "label_time", "received_at")


@dataclass(frozen=True)
class Tally:
    """Labels by what they are: *rows* that arrived, *distinct* predictions they name, *conflicts* among these (more
    than one value; the last to arrive counts)."""

    rows: int
    distinct: int
    conflicts: int


def predictions(
    root: Path, start: When = None, end: When = None, *, columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """Predictions with a data time in ``[start, end)``, ordered by time and id; every one exactly once.

    Columns: prediction_id, time, received_at (both UTC), release (digest), arm, prediction (probability of the
    positive class, of the chosen label, or the value), for multiclass predicted_label and probabilities (in the order
    of the release's classes), the id and key columns that were sent, and every feature. *columns* selects some of
    these; prediction_id and time are always there. Times without an offset are UTC.
    """
    wanted = None if columns is None else list(dict.fromkeys(["prediction_id", "time", *columns]))
    span = _span(start, end)
    table = _read(root, layout.PREDICTIONS, span, prediction_table, wanted)
    if table is None:
        return _empty(wanted or _PREDICTION_COLUMNS, times=("time", "received_at"))
    import pyarrow.compute as pc

    order = pc.sort_indices(
        table.select(["time", "prediction_id"]), [("time", "ascending"), ("prediction_id", "ascending")]
    )
    return _frame(table.take(order))


def labels(root: Path, start: When = None, end: When = None) -> pd.DataFrame:
    """Labels of predictions with a data time in ``[start, end)`` (to the second): prediction_id, label, label_time
    (when it became known, if that was sent) and received_at. One row per prediction, the last to arrive counts."""
    arrived = _label_rows(root, start, end)
    kept = arrived.drop_duplicates("prediction_id", keep="last")
    return kept.sort_values("prediction_id", ignore_index=True)


def joined(root: Path, start: When = None, end: When = None, *, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """`predictions` with the columns label and label_time; missing where no label has arrived."""
    known = labels(root, start, end)[["prediction_id", "label", "label_time"]]
    return predictions(root, start, end, columns=columns).merge(known, on="prediction_id", how="left", sort=False)


def tally(root: Path, start: When = None, end: When = None) -> Tally:
    """Counts of the labels that arrived, repeats and contradictions included."""
    arrived = _label_rows(root, start, end)
    values = arrived.assign(label=arrived["label"].astype(str)).groupby("prediction_id")["label"].nunique()
    return Tally(len(arrived), len(values), int((values > 1).sum()))


def _label_rows(root: Path, start: When, end: When) -> pd.DataFrame:
    """Every label that arrived, in the order of arrival. Ids know whole seconds, so both ends are widened to those."""
    first, last = _span(start, end)
    span = (first // _SECOND * _SECOND, -(-last // _SECOND) * _SECOND)
    table = _read(root, layout.LABELS, span, label_table, None)
    if table is None:
        return _empty(_LABEL_COLUMNS, times=("label_time", "received_at"))
    frame = _frame(table)
    if frame["text"].isna().all():
        label = frame["number"]
    elif frame["number"].isna().all():
        label = frame["text"]
    else:
        label = frame["number"].astype(object).where(frame["text"].isna(), frame["text"])
    return frame.assign(label=label).sort_values("received_at", kind="stable", ignore_index=True)[list(_LABEL_COLUMNS)]


def _read(
    root: Path,
    stream: str,
    span: tuple[int, int],
    convert: Callable[[Iterable[Record]], pa.Table | None],
    columns: Sequence[str] | None,
) -> pa.Table | None:
    """All rows of *stream* in *span*. Segments are listed before parts, so a segment that gets compacted meanwhile
    is either seen as a part or found gone, and then it is looked for again."""
    while True:
        segments = layout.segments(root, stream)
        parts = layout.parts(root, stream)
        compacted = {part.segment for part in parts}
        tables: list[tuple[str, pa.Table]] = []
        try:
            for name, path in segments.items():
                if name not in compacted and (found := _from_segment(path, span, convert)) is not None:
                    tables.append((name, _within(found, stream, span)))
        except FileNotFoundError:
            continue
        for part in parts:
            if part.overlaps(*span):
                table = _from_part(part.path, columns)
                tables.append((part.segment, table if part.within(*span) else _within(table, stream, span)))
        ordered = [table for _, table in sorted(tables, key=lambda item: item[0]) if table.num_rows]
        return _together(ordered, columns)


def _from_segment(
    path: Path, span: tuple[int, int], convert: Callable[[Iterable[Record]], pa.Table | None]
) -> pa.Table | None:
    start, end = span
    with path.open("rb") as file:
        content = file.read()
    return convert(r for r in scan(content) if r.first_us < end and start <= r.last_us)


def _from_part(path: Path, columns: Sequence[str] | None) -> pa.Table:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, memory_map=True) as file:
        present = file.schema_arrow.names
        return file.read(columns=None if columns is None else [c for c in columns if c in present])


def _within(table: pa.Table, stream: str, span: tuple[int, int]) -> pa.Table:
    """The rows of *table* in *span*. Labels carry no data time but in the id, whose order is that of time."""
    import pyarrow as pa
    import pyarrow.compute as pc

    start, end = span
    if span == _EVER:
        return table
    if stream == layout.LABELS:
        from stores.telemetry.ids import first_id

        low, high = pa.scalar(first_id(start)), pa.scalar(first_id(end))
        column = table["prediction_id"]
    else:
        column = table["time"]
        low, high = (pa.scalar(us, column.type) for us in span)
    return table.filter(pc.and_(pc.greater_equal(column, low), pc.less(column, high)))


def _together(tables: list[pa.Table], columns: Sequence[str] | None) -> pa.Table | None:
    import pyarrow as pa

    if not tables:
        return None
    if columns is not None:
        tables = [t.select([c for c in columns if c in t.column_names]) for t in tables]
    return pa.concat_tables(tables, promote_options="permissive")


def _frame(table: pa.Table) -> pd.DataFrame:
    frame: pd.DataFrame = table.to_pandas(split_blocks=True, self_destruct=True)
    return frame


def _empty(columns: Sequence[str], *, times: Sequence[str]) -> pd.DataFrame:
    import pandas as pd

    kinds = {**dict.fromkeys(times, "datetime64[us, UTC]"), "prediction": "float64", "label": "float64"}
    return pd.DataFrame({name: pd.Series(dtype=kinds.get(name, "str")) for name in columns})


def _span(start: When, end: When) -> tuple[int, int]:
    return (_EVER[0] if start is None else _micros(start), _EVER[1] if end is None else _micros(end))


def _micros(when: Any) -> int:
    from trimtab.intake import micros

    moment = datetime.fromisoformat(when) if isinstance(when, str) else when
    return micros(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
