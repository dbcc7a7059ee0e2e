"""What a client may send: rows in, clean columns out, or an error that names the row and the field. Works column by
column, so that ten thousand rows cost little more than the model. HTTP is `serving`'s business."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from trimtab.data.features import Feature, numbers, texts
from trimtab.data.types import Columns
from trimtab.requests.rows import Micros, ParsedRows
from trimtab.requests.shape_cache import RowShapeCache

if TYPE_CHECKING:
    import pyarrow as pa


_ACCEPTED: dict[str, frozenset[type]] = {
    "number": frozenset({int, float}),
    "boolean": frozenset({bool}),
    "text": frozenset({str}),
    "integer": frozenset({int}),
}
_ABSENT = object()
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_AS_SENT = _EPOCH.replace(tzinfo=None)
_MICROSECOND = timedelta(microseconds=1)


class BadInput(ValueError):
    """A row cannot be understood. *row* and *field* are None when the problem is not in one row or field."""

    def __init__(self, problem: str, *, row: int | None = None, field: str | None = None, got: Any = None) -> None:
        super().__init__(f"row {row}, field {field}: {problem}")
        self.problem, self.row, self.field, self.got = problem, row, field, got


class RowParser:
    """Understands rows for one release."""

    def __init__(self, features: Sequence[Feature], columns: Columns) -> None:
        self.features = tuple(features)
        self._columns = columns
        names = [f.name for f in features]
        extra = [name for name in (columns.id, columns.key) if name is not None and name not in names]
        self._recorded = tuple(dict.fromkeys(extra))
        self._known = {*names, *extra, columns.time}
        self._numbers = tuple(f.name for f in features if f.kind == "number")
        gap = frozenset({type(None)})
        self._accepted = {f.name: _ACCEPTED[f.values] | (gap if f.nullable else frozenset()) for f in features}
        self._admission = RowShapeCache(
            {columns.time: frozenset({str}) | gap, **dict.fromkeys(extra, frozenset({str, int}) | gap)}
            | self._accepted,
            required=[f.name for f in features if not f.nullable],
            time=columns.time,
            parse=_parsed,
        )

    def read(self, rows: Any, *, now_us: int) -> ParsedRows:
        """*rows* as JSON gave them, as columns. A row without a data time gets *now_us*. Raises BadInput."""
        return self._understand(self._transpose(rows), len(rows), now_us)

    def read_columns(self, columns: Any, *, now_us: int) -> ParsedRows:
        """The same for rows that come as lists by column, all of one length: half the work for many rows."""
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
        return self._understand(columns, size or 0, now_us)

    def admit(self, row: Any) -> None:
        """Raises BadInput exactly as ``read([row])`` would, but costs little for a row like others before it."""
        if not self._admission.admits(row):
            self.read([row], now_us=0)

    def read_admitted(self, rows: Sequence[Mapping[str, Any]], *, now_us: int) -> ParsedRows:
        """The same as ``read(rows)`` for at least one row, each of which was admitted, without looking at them again.
        Rows with an integer that no float64 can hold raise BadInput only here."""
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
                columns[feature.name] = list(values) if feature.values == "text" else texts(values)
        times, of = table.get(self._columns.time, gaps), self._admission.times.of
        return ParsedRows(
            size=size,
            columns=columns,
            recorded={name: _labels(name, table[name]) for name in self._recorded if name in table},
            time_us=np.array([now_us if text is None else of(text) for text in times], dtype=np.int64),
            features=self.features,
        )

    def read_arrow(self, table: pa.Table | pa.RecordBatch, *, now_us: int) -> ParsedRows:
        """The same for rows in Arrow's form, which need no look at single values. Raises BadInput."""
        from trimtab.requests.arrow import read

        for name in table.schema.names:
            if name not in self._known:
                raise self._unknown(name, dict.fromkeys(table.schema.names), row=None)
        return read(table, self.features, self._columns, self._recorded, now_us=now_us)

    def _understand(self, table: Mapping[str, Sequence[Any]], size: int, now_us: int) -> ParsedRows:
        return ParsedRows(
            size=size,
            columns={f.name: self._feature(f, table.get(f.name), size) for f in self.features},
            recorded={name: _labels(name, table[name]) for name in self._recorded if name in table},
            time_us=times_of(self._columns.time, table.get(self._columns.time), size, now_us),
            features=self.features,
        )

    def _transpose(self, rows: Any) -> dict[str, Sequence[Any]]:
        """Columns of what was sent. One pass when all rows have the same keys in the same order, as usual."""
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
        return {name: [row.get(name, _ABSENT) for row in rows] for name in names}

    def _unknown(self, name: str, sent: Mapping[str, Any], *, row: int | None) -> BadInput:
        if name == self._columns.target:
            return BadInput("is the target: send it to /labels once it is known", row=row, field=name)
        missing = [f.name for f in self.features if f.name not in sent]
        hint = f"; missing here: {', '.join(missing)}" if missing else ""
        return BadInput(f"unknown field{hint}", row=row, field=name, got=None if row is None else sent[name])

    def _feature(self, feature: Feature, values: Sequence[Any] | None, size: int) -> Any:
        if values is None:
            values = [_ABSENT] * size
        if not self._accepted[feature.name].issuperset(map(type, values)):
            values = self._without_gaps(feature, values)
        if feature.kind == "category":
            return list(values) if feature.values == "text" else texts(values)
        try:
            return numbers(values)
        except OverflowError as error:
            row = next(i for i, v in enumerate(values) if _overflows(v))
            raise BadInput(
                "number too large", row=row, field=feature.name, got=f"an integer of {values[row].bit_length()} bits"
            ) from error

    def _without_gaps(self, feature: Feature, values: Sequence[Any]) -> list[Any]:
        """Missing values as None; refuses those that may not be missing, and values of a wrong type."""
        accepted = _ACCEPTED[feature.values]
        for i, value in enumerate(values):
            if value is None or value is _ABSENT:
                if not feature.nullable:
                    problem = "missing" if value is _ABSENT else "must not be null"
                    raise BadInput(problem, row=i, field=feature.name)
            elif type(value) not in accepted:
                null = " or null" if feature.nullable else ""
                raise BadInput(f"must be {article(feature.values)}{null}", row=i, field=feature.name, got=value)
        return [None if value is _ABSENT else value for value in values]


def _overflows(value: Any) -> bool:
    try:
        return value is not None and float(value) is None
    except OverflowError:
        return True


def article(values: str) -> str:
    """A kind of values as an error calls it."""
    return {"number": "a number", "boolean": "true or false", "text": "text", "integer": "an integer"}[values]


def _labels(name: str, values: Sequence[Any]) -> list[str | None]:
    """Ids and keys, recorded as text."""
    kinds = set(map(type, values))
    if kinds <= {str}:
        return list(values)
    for i, value in enumerate(values):
        if value is not None and value is not _ABSENT and type(value) not in (str, int):
            raise BadInput("must be text or an integer", row=i, field=name, got=value)
    return [None if v is None or v is _ABSENT else str(v) for v in values]


def times_of(name: str, values: Sequence[Any] | None, size: int, now_us: int) -> Micros:
    """ISO 8601 text as UTC microseconds; without an offset it is UTC. Rows share times, so each is parsed once."""
    if values is None:
        return np.full(size, now_us, dtype=np.int64)
    try:
        known = {v: now_us if v is None or v is _ABSENT else _parsed(v) for v in dict.fromkeys(values)}
    except (TypeError, ValueError):
        row, value, error = next(_faults(values))
        raise BadInput("must be a time like 2013-03-01T05:00:00Z", row=row, field=name, got=value) from error
    return np.array([known[value] for value in values], dtype=np.int64)


def _faults(values: Sequence[Any]) -> Iterator[tuple[int, Any, Exception]]:
    """What in a column of times is none."""
    for row, value in enumerate(values):
        try:
            if value is not None and value is not _ABSENT:
                _parsed(value)
        except (TypeError, ValueError) as error:
            yield row, value, error


def _parsed(text: str) -> int:
    return micros(datetime.fromisoformat(text))


def micros(moment: datetime) -> int:
    """UTC microseconds since 1970; a moment without an offset is UTC."""
    return (moment - (_EPOCH if moment.tzinfo else _EPOCH_AS_SENT)) // _MICROSECOND
