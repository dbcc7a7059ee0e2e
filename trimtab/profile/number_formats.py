"""How numbers are written in a column of texts: decimal mark, thousands mark, currency, percent."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_CURRENCY = r"[$€£¥₹]|\b(?:USD|EUR|GBP|CHF|JPY)\b"
_AFFIX = re.compile(rf"^\s*(?:{_CURRENCY})\s*|\s*(?:{_CURRENCY}|%)\s*$")
_PLAIN = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_GROUPED = {
    mark: re.compile(rf"[+-]?\d{{1,3}}(?:{re.escape(mark)}\d{{3}})+") for mark in (",", ".", " ", "'", "\u00a0")
}


@dataclass(frozen=True)
class NumberFormat:
    """How the numbers of a column are written. *affix* says that they stand beside a currency or a percent sign."""

    decimal: str = "."
    thousands: str | None = None
    has_affix: bool = False

    def parse(self, text: str) -> float:
        """The number in *text*. Raises ValueError.

        >>> NumberFormat(decimal=",", thousands=".").parse("1.234,5")
        1234.5
        """
        bare = _AFFIX.sub("", text).strip() if self.has_affix else text.strip()
        whole, mark, rest = bare.partition(self.decimal)
        if self.thousands and self.thousands in whole:
            if not _GROUPED[self.thousands].fullmatch(whole):
                raise ValueError(f"{text!r}: {self.thousands!r} does not stand between groups of three digits")
            whole = whole.replace(self.thousands, "")
        plain = f"{whole}.{rest}" if mark else whole
        if not _PLAIN.fullmatch(plain):
            raise ValueError(f"{text!r} is not a number")
        return float(plain)


_CANDIDATES = (
    NumberFormat(),
    NumberFormat(decimal=","),
    *(NumberFormat(thousands=mark) for mark in (",", " ", "'", "\u00a0")),
    *(NumberFormat(decimal=",", thousands=mark) for mark in (".", " ", "\u00a0")),
)


def find_number_format(texts: Sequence[str], *, tolerated_share: float = 0.0) -> NumberFormat | None:
    """The simplest format in which all *texts* are numbers but a share of *tolerated_share*; None when there is none.

    Where two formats read every text, as with "1,234", the one without a thousands mark loses only if each mark is
    followed by three digits in every text that has one.
    """
    if not texts:
        return None
    has_affix = any(_AFFIX.search(text) for text in texts)
    best, most = None, len(texts) * (1 - tolerated_share)
    for candidate in _CANDIDATES:
        tried = NumberFormat(candidate.decimal, candidate.thousands, has_affix)
        if candidate.decimal == "," and candidate.thousands is None and _only_groups(texts):
            continue
        read = sum(_is_readable(text, tried) for text in texts)
        if read >= most and (best is None or read > best[0]):
            best = (read, tried)
    return best[1] if best else None


def _is_readable(text: str, how: NumberFormat) -> bool:
    try:
        how.parse(text)
    except ValueError:
        return False
    return True


def _only_groups(texts: Sequence[str]) -> bool:
    """Whether every text with a comma has it between groups of three digits, and at least one has two of them or more
    than three digits before: a thousands mark and not a decimal one."""
    marked = [_AFFIX.sub("", text).strip() for text in texts if "," in text]
    return bool(marked) and all(_GROUPED[","].fullmatch(text.partition(".")[0]) for text in marked)
