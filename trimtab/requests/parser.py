"""Parse the rows of a request into clean columns, or raise an error that names the row and the field.

The work is done column by column, so 10,000 rows cost little more than the model itself. HTTP and its limits are in
`serving.http`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from trimtab.data.features import Feature, numbers, texts
from trimtab.data.types import Columns
from trimtab.requests.rows import ParsedRows
from trimtab.requests.shape_cache import RowShapeCache
from trimtab.requests.values import ABSENT, BadInput, id_texts, parse_time, parse_times, with_article

if TYPE_CHECKING:
    import pyarrow as pa

_ACCEPTED: dict[str, frozenset[type]] = {
    "number": frozenset({int, float}),
    "boolean": frozenset({bool}),
    "text": frozenset({str, int}),  # a code may be written 7 or "7": both are the category 7
    "integer": frozenset({int}),
}


class RowParser:
    """Parses rows for one release: checks names and types, and converts each column once.

    >>> parser = RowParser([Feature(name="distance", kind="number")], Columns(time="at", id="row", target="late"))
    >>> rows = parser.read([{"row": 7, "distance": 200}, {"distance": None}], now_us=0)
    >>> rows.columns["distance"].tolist(), rows.recorded, rows.time_us.tolist()
    ([200.0, nan], {'row': ['7', None]}, [0, 0])
    >>> parser.read([{"distance": "far"}], now_us=0)
    Traceback (most recent call last):
    trimtab.requests.values.BadInput: row 0, field distance: must be a number or null
    """

    def __init__(self, features: Sequence[Feature], columns: Columns) -> None:
        self.features = tuple(features)
        self._columns = columns
        names = [f.name for f in features]
        extra = [name for name in (columns.id, columns.key) if name is not None and name not in names]
        self._recorded = tuple(dict.fromkeys(extra))
        self._known = {*names, *extra, columns.time}
        self._numbers = tuple(f.name for f in features if f.kind == "number")
        null = frozenset({type(None)})
        self._accepted = {f.name: _ACCEPTED[f.values] | (null if f.nullable else frozenset()) for f in features}
        self._shapes = RowShapeCache(
            {columns.time: frozenset({str}) | null, **dict.fromkeys(extra, frozenset({str, int}) | null)}
            | self._accepted,
            required=[f.name for f in features if not f.nullable],
            time=columns.time,
            parse=parse_time,
        )

    def read(self, rows: Any, *, now_us: int) -> ParsedRows:
        """Parse *rows*, a list of objects as JSON gives them. A row without a data time gets *now_us*.

        Raises BadInput.
        """
        return self._parse(self._transpose(rows), len(rows), now_us)

    def read_columns(self, columns: Any, *, now_us: int) -> ParsedRows:
        """Parse an object that has a list for each column, all of one length: half the work of `read` for many rows.

        Raises BadInput.
        """
        if not isinstance(columns, dict) or not columns:
            raise BadInput("must be an object with a list for each column", got=type(columns).__name__)
        size = None
        for name, values in columns.items():
            if name not in self._known:
                raise self._unknown(name, columns, row=None)
            if not isinstance(values, list) or not values:
                raise BadInput("a column must be a list with at least one value", field=name, got=values)
            size = len(values) if size is None else size
            if len(values) != size:
                raise BadInput(f"has {len(values)} values where others have {size}", field=name)
        return self._parse(columns, size or 0, now_us)

    def check_fast(self, row: Any) -> None:
        """Raise BadInput exactly when ``read([row])`` would. Costs little for a row whose shape was seen before."""
        if not self._shapes.accepts(row):
            self.read([row], now_us=0)

    def read_checked(self, rows: Sequence[Mapping[str, Any]], *, now_us: int) -> ParsedRows:
        """Parse at least one row, each of which passed `check_fast`, without checking it again.

        The result equals that of ``read(rows)``. Raises BadInput only for an integer that no float64 can hold.
        """
        shapes = set(map(tuple, rows))
        size = len(rows)
        if len(shapes) == 1:
            table: dict[str, Sequence[Any]] = dict(
                zip(shapes.pop(), zip(*[row.values() for row in rows], strict=True), strict=True)
            )
        else:
            table = {n: [row.get(n) for row in rows] for n in dict.fromkeys(n for shape in shapes for n in shape)}
        gaps = [None] * size
        try:
            block = np.array([table.get(name, gaps) for name in self._numbers], dtype=np.float64)
        except OverflowError:
            return self.read(rows, now_us=now_us)
        columns: dict[str, Any] = {}
        numbers_left = iter(block)
        for feature in self.features:
            if feature.kind == "number":
                columns[feature.name] = next(numbers_left)
            else:
                values = table.get(feature.name, gaps)
                columns[feature.name] = texts(values)
        times, parse = table.get(self._columns.time, gaps), self._shapes.times.parse
        return ParsedRows(
            size=size,
            columns=columns,
            recorded={name: id_texts(name, table[name]) for name in self._recorded if name in table},
            time_us=np.array([now_us if text is None else parse(text) for text in times], dtype=np.int64),
            features=self.features,
        )

    def read_arrow(self, table: pa.Table | pa.RecordBatch, *, now_us: int) -> ParsedRows:
        """Parse an Arrow table, whose types are checked by column and not by value. Raises BadInput."""
        from trimtab.requests.arrow import read

        for name in table.schema.names:
            if name not in self._known:
                raise self._unknown(name, dict.fromkeys(table.schema.names), row=None)
        return read(table, self.features, self._columns, self._recorded, now_us=now_us)

    def _parse(self, table: Mapping[str, Sequence[Any]], size: int, now_us: int) -> ParsedRows:
        return ParsedRows(
            size=size,
            columns={f.name: self._feature(f, table.get(f.name), size) for f in self.features},
            recorded={name: id_texts(name, table[name]) for name in self._recorded if name in table},
            time_us=parse_times(self._columns.time, table.get(self._columns.time), size, now_us),
            features=self.features,
        )

    def _transpose(self, rows: Any) -> dict[str, Sequence[Any]]:
        """Turn rows into columns: in one pass when all rows have the same keys in the same order, as is usual."""
        if not isinstance(rows, list) or not rows:
            raise BadInput("must be a list with at least one row", got=type(rows).__name__)
        for i, row in enumerate(rows):
            if type(row) is not dict:
                raise BadInput("a row must be an object", row=i, got=row)
        shapes = set(map(tuple, rows))
        names = dict.fromkeys(name for shape in sorted(shapes) for name in shape)
        if unknown := [name for name in names if name not in self._known]:
            row, name = next((i, name) for i, row in enumerate(rows) for name in unknown if name in row)
            raise self._unknown(name, rows[row], row=row)
        if len(shapes) == 1:
            return dict(zip(next(iter(shapes)), zip(*(row.values() for row in rows), strict=True), strict=True))
        return {name: [row.get(name, ABSENT) for row in rows] for name in names}

    def _unknown(self, name: str, sent: Mapping[str, Any], *, row: int | None) -> BadInput:
        if name == self._columns.target:
            return BadInput("is the target: send it to /labels once it is known", row=row, field=name)
        missing = [f.name for f in self.features if f.name not in sent]
        hint = f"; missing here: {', '.join(missing)}" if missing else ""
        return BadInput(f"unknown field{hint}", row=row, field=name, got=None if row is None else sent[name])

    def _feature(self, feature: Feature, values: Sequence[Any] | None, size: int) -> Any:
        """The clean column of *feature*: a float64 array or a list of str and None, of length *size*."""
        if values is None:
            values = [ABSENT] * size
        if not self._accepted[feature.name].issuperset(map(type, values)):
            values = self._without_gaps(feature, values)
        if feature.kind == "category":
            return texts(values)
        try:
            return numbers(values)
        except OverflowError as error:
            row = next(i for i, v in enumerate(values) if _overflows(v))
            raise BadInput(
                "number too large", row=row, field=feature.name, got=f"an integer of {values[row].bit_length()} bits"
            ) from error

    def _without_gaps(self, feature: Feature, values: Sequence[Any]) -> list[Any]:
        """*values* with None for missing ones. Raises BadInput for a missing required value or a wrong type."""
        accepted = _ACCEPTED[feature.values]
        for i, value in enumerate(values):
            if value is None or value is ABSENT:
                if not feature.nullable:
                    problem = "missing" if value is ABSENT else "must not be null"
                    raise BadInput(problem, row=i, field=feature.name)
            elif type(value) not in accepted:
                null = " or null" if feature.nullable else ""
                raise BadInput(f"must be {with_article(feature.values)}{null}", row=i, field=feature.name, got=value)
        return [None if value is ABSENT else value for value in values]


def _overflows(value: Any) -> bool:
    try:
        return value is not None and float(value) is None
    except OverflowError:
        return True
