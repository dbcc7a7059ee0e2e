"""Selects the segments and parts that can hold the requested rows and returns these rows as one table."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stores.object_store.store import NoSuchObject
from stores.telemetry.parquet import files
from stores.telemetry.parquet.schema import label_table, pair_table, prediction_table
from stores.telemetry.remote import replica
from stores.telemetry.remote.replica import TelemetryLocation, folder_of
from stores.telemetry.wal import streams
from stores.telemetry.wal.framing import Frame, scan
from stores.telemetry.wal.ids import first_id

log = logging.getLogger("trimtab.telemetry")

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

EVER = (-(2**62) // 1_000_000 * 1_000_000, 2**62 // 1_000_000 * 1_000_000)
_MOST_GONE = 20  # listings, one after another, in each of which something was gone when it was fetched
_CLOCK_SLACK_S = 2.0  # file systems stamp with a coarser clock than the one that rows are stamped with


@dataclass(frozen=True)
class Selection:
    """Rows of *stream* with a data time in *span*, that arrived at *since_us* or later (wall time), and that are of
    *rollout*; of these, *columns*."""

    root: TelemetryLocation
    stream: str
    span: tuple[int, int] = EVER
    since_us: int | None = None
    rollout: str | None = None
    columns: Sequence[str] | None = None

    def read(self) -> pa.Table | None:
        """All of them, by writer and segment; None when there are none.

        Segments are listed before parts, and a folder's before the store's, so what turns into something else meanwhile
        is either seen as that or found gone, and then it is looked for again. Raises ObjectsError when the store has
        to be asked and does not answer, or has something damaged.
        """
        gone = 0
        while True:
            segments = streams.segments(folder_of(self.root), self.stream)
            parts = replica.parts(self.root, self.stream)
            compacted = files.CompactedSegments(parts)
            try:
                wanted = [part for part in parts if part.overlaps(*self.span) and self._recent(part.arrived_s)]
                replica.download(self.root, wanted)
                tables = [
                    *((s, self._of_segment(path)) for s, path in segments.items() if s not in compacted),
                    *((part.segment, self._of_part(part)) for part in wanted),
                ]
            except FileNotFoundError:
                continue
            except NoSuchObject:
                gone += 1
                if gone == _MOST_GONE:
                    raise
                continue
            found = [(name, table) for name, table in tables if table is not None and table.num_rows]
            return self._together([table for _, table in sorted(found, key=lambda item: item[0])])

    def _recent(self, written_s: float) -> bool:
        """Whether anything that was written until then can have arrived since."""
        return self.since_us is None or written_s + _CLOCK_SLACK_S >= self.since_us / 1e6

    def _of_segment(self, path: Path) -> pa.Table | None:
        if not self._recent(path.stat().st_mtime):
            return None
        with path.open("rb") as file:
            content = file.read()
        start, end = self.span
        table = self._converted(r for r in scan(content) if r.first_us < end and start <= r.last_us)
        return None if table is None else self._filtered(table, whole=self.span == EVER)

    def _converted(self, records: Iterable[Frame]) -> pa.Table | None:
        if self.stream == streams.PAIRS:
            return pair_table(records, rollout=self.rollout)
        return (prediction_table if self.stream == streams.PREDICTIONS else label_table)(records)

    def _of_part(self, part: files.ParquetPart) -> pa.Table | None:
        """The rows of a part; None for one that is damaged, which the log names: it stops no reader of the others."""
        import pyarrow as pa

        try:
            return self._read_part(part)
        except (pa.ArrowException, KeyError, ValueError) as error:
            log.error("%s cannot be read and is left out: %s", part.path, error)
            return None

    def _read_part(self, part: files.ParquetPart) -> pa.Table | None:
        import pyarrow.parquet as pq

        with pq.ParquetFile(part.path, memory_map=True) as file:
            present = file.schema_arrow.names
            columns = None
            if self.columns is not None:
                helpers = () if self.since_us is None else ("received_at",)
                columns = [c for c in dict.fromkeys([*self.columns, *helpers]) if c in present]
            groups = [i for i in range(file.num_row_groups) if self._can_be_in(file, i)]
            table = file.read_row_groups(groups, columns=columns, use_threads=False) if groups else None
        if table is not None:
            table = _conforming(table)
        return None if table is None else self._filtered(table, whole=part.within(*self.span))

    def _can_be_in(self, file: pq.ParquetFile, group: int) -> bool:
        """By the bounds that a part keeps for each of its groups of rows."""
        wanted: dict[str, tuple[Any, Any]] = {}
        if self.stream == streams.LABELS:
            wanted["prediction_id"] = (first_id(self.span[0]).encode(), first_id(self.span[1]).encode())
        else:
            wanted["time"] = self.span
        if self.since_us is not None:
            wanted["received_at"] = (self.since_us, EVER[1])
        if self.rollout is not None:
            wanted["rollout"] = (self.rollout.encode(), self.rollout.encode())
        chunks = file.metadata.row_group(group)
        for name, (low, high) in wanted.items():
            bounds = chunks.column(file.schema_arrow.get_field_index(name)).statistics
            if bounds is not None and bounds.has_min_max and (bounds.max_raw < low or high < bounds.min_raw):
                return False
        return True

    def _filtered(self, table: pa.Table, *, whole: bool) -> pa.Table:
        """The rows that are meant; *whole*: the data times are known to be. Labels carry none but in the id, whose
        order is that of time."""
        import pyarrow as pa
        import pyarrow.compute as pc

        conditions = []
        if not whole:
            start, end = self.span
            if self.stream == streams.LABELS:
                column = table["prediction_id"]
                low, high = pa.scalar(first_id(start)), pa.scalar(first_id(end))
            else:
                column = table["time"]
                low, high = (pa.scalar(us, column.type) for us in self.span)
            conditions += [pc.greater_equal(column, low), pc.less(column, high)]
        if self.since_us is not None:
            arrived = table["received_at"]
            conditions.append(pc.greater_equal(arrived, pa.scalar(self.since_us, arrived.type)))
        if self.rollout is not None:
            conditions.append(pc.equal(table["rollout"], self.rollout))
        for condition in conditions[1:]:
            conditions[0] = pc.and_(conditions[0], condition)
        return table.filter(conditions[0]) if conditions else table

    def _together(self, tables: list[pa.Table]) -> pa.Table | None:
        import pyarrow as pa

        if not tables:
            return None
        if self.columns is not None:
            tables = [t.select([c for c in self.columns if c in t.column_names]) for t in tables]
        return pa.concat_tables(tables, promote_options="permissive")


def _conforming(table: pa.Table) -> pa.Table:
    """*table* with the types that readers count on. Raises ArrowException where a column cannot have its type."""
    import pyarrow as pa

    moment = pa.timestamp("us", "UTC")
    types = {
        "prediction_id": pa.string(), "time": moment, "received_at": moment, "label_time": moment,
        "number": pa.float64(), "text": pa.string(), "prediction": pa.float64(),
    }  # fmt: skip
    for index, field in enumerate(table.schema):
        wanted = types.get(field.name)
        if wanted is not None and field.type != wanted and not pa.types.is_dictionary(field.type):
            table = table.set_column(index, field.name, table.column(index).cast(wanted))
    return table
