"""Check single rows cheaply: clients send rows of the same shape again and again.

The shape of a row is its keys in their order and the types of its values. A shape that passed once passes again
without a closer look. Every other row goes through `RowParser.read`, which also raises all errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

MAX_SHAPES: Final = 64
MAX_TYPES_PER_SHAPE: Final = 256
MAX_TIMESTAMPS: Final = 8192
MAX_TIMESTAMP_CHARS: Final = 40  # a longer text has digits that do not count, and is not cached


@dataclass(frozen=True)
class RowShape:
    """Rows with the same keys in the same order.

    *accepted* has for each key the types that are valid, *seen* the tuples of types that were found valid, *time* the
    index of the data time, or None when the rows have none.
    """

    accepted: tuple[frozenset[type], ...]
    time: int | None
    seen: set[tuple[type, ...]] = field(default_factory=set)

    def fits(self, types: tuple[type, ...]) -> bool:
        """Whether a row with values of these types is valid, whatever the values are."""
        if types in self.seen:
            return True
        if not all(kind in valid for kind, valid in zip(types, self.accepted, strict=True)):
            return False
        if len(self.seen) < MAX_TYPES_PER_SHAPE:
            self.seen.add(types)
        return True


class TimestampCache:
    """Times that were parsed lately, in UTC microseconds. Rows often share a time, which is then parsed once."""

    def __init__(self, parse: Callable[[str], int]) -> None:
        self._parse, self._known = parse, dict[str, int]()

    def parse(self, text: str) -> int:
        """The time that *text* says, in UTC microseconds since 1970. Raises ValueError or TypeError."""
        found = self._known.get(text)
        if found is None:
            found = self._parse(text)
            if len(self._known) >= MAX_TIMESTAMPS:
                self._known.clear()
            if len(text) <= MAX_TIMESTAMP_CHARS:
                self._known[text] = found
        return found


class RowShapeCache:
    """The shapes of rows that were found valid.

    *accepted* has the types that each known column may have in a row; a column in *required* may not be left out.
    Safe to use from many threads without a lock: a lost entry is found again, and an entry added twice is the same.
    """

    def __init__(
        self,
        accepted: Mapping[str, frozenset[type]],
        *,
        required: Sequence[str],
        time: str,
        parse: Callable[[str], int],
    ) -> None:
        self._accepted, self._required, self._time = dict(accepted), frozenset(required), time
        self._shapes: dict[tuple[str, ...], RowShape] = {}
        self.times = TimestampCache(parse)

    def accepts(self, row: Any) -> bool:
        """Whether *row* is known to be valid. False means that it needs a closer look, not that it is invalid."""
        if type(row) is not dict:
            return False
        shape = self._shapes.get(tuple(row)) or self._add(row)
        if shape is None or not shape.fits(tuple(map(type, row.values()))):
            return False
        if shape.time is not None and (text := row[self._time]) is not None:
            try:
                self.times.parse(text)
            except (TypeError, ValueError):
                return False
        return True

    def _add(self, row: Mapping[str, Any]) -> RowShape | None:
        names = tuple(row)
        if not self._required <= row.keys() or not row.keys() <= self._accepted.keys():
            return None
        time = names.index(self._time) if self._time in row else None
        shape = RowShape(tuple(self._accepted[name] for name in names), time)
        if len(self._shapes) >= MAX_SHAPES:
            self._shapes.clear()
        self._shapes[names] = shape
        return shape
