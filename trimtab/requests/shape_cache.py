"""Understand single rows cheaply, many times over: requests of one row each that are answered together.

Clients send rows of the same form again and again, so what a form allows is found out once and remembered. Whatever
is unusual goes the long way, through `Intake.read`, which also makes all the errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MOST_FORMS = 64
MOST_KINDS = 256
MOST_TIMES = 8192
LONGEST_TIME = 40  # what is longer has digits that do not count, and is not worth remembering


@dataclass(frozen=True)
class RowShape:
    """Rows with the same keys in the same order. *accepted* says for each key which types are fine, *kinds* which
    rows of types have been seen to be; *time* is the place of the data time."""

    accepted: tuple[frozenset[type], ...]
    time: int | None
    kinds: set[tuple[type, ...]] = field(default_factory=set)

    def fits(self, kinds: tuple[type, ...]) -> bool:
        """Whether values of these types are fine, whatever they are."""
        if kinds in self.kinds:
            return True
        if not all(kind in fine for kind, fine in zip(kinds, self.accepted, strict=True)):
            return False
        if len(self.kinds) < MOST_KINDS:
            self.kinds.add(kinds)
        return True


class TimestampCache:
    """UTC microseconds of the texts met last, so that a time that many rows share is parsed once."""

    def __init__(self, parse: Callable[[str], int]) -> None:
        self._parse, self._known = parse, dict[str, int]()

    def of(self, text: str) -> int:
        """Raises ValueError or TypeError when *text* is no time."""
        found = self._known.get(text)
        if found is None:
            found = self._parse(text)
            if len(self._known) >= MOST_TIMES:
                self._known.clear()
            if len(text) <= LONGEST_TIME:
                self._known[text] = found
        return found


class RowShapeCache:
    """Remembers the forms of rows that were admitted. *accepted* has the types that each known column may have in a
    row; a column in *required* may not be left out. Safe to use from many threads: what one of them forgets or learns
    twice is only found out again."""

    def __init__(
        self,
        accepted: Mapping[str, frozenset[type]],
        *,
        required: Sequence[str],
        time: str,
        parse: Callable[[str], int],
    ) -> None:
        self._accepted, self._required, self._time = dict(accepted), frozenset(required), time
        self._forms: dict[tuple[str, ...], RowShape] = {}
        self.times = TimestampCache(parse)

    def admits(self, row: Any) -> bool:
        """Whether *row* is known to be fine; False when it has to be looked at closely."""
        if type(row) is not dict:
            return False
        form = self._forms.get(tuple(row)) or self._learn(row)
        if form is None or not form.fits(tuple(map(type, row.values()))):
            return False
        if form.time is not None and (text := row[self._time]) is not None:
            try:
                self.times.of(text)
            except (TypeError, ValueError):
                return False
        return True

    def _learn(self, row: Mapping[str, Any]) -> RowShape | None:
        names = tuple(row)
        if not self._required <= row.keys() or not row.keys() <= self._accepted.keys():
            return None
        time = names.index(self._time) if self._time in row else None
        form = RowShape(tuple(self._accepted[name] for name in names), time)
        if len(self._forms) >= MOST_FORMS:
            self._forms.clear()
        self._forms[names] = form
        return form
