"""Inputs for decoders that no one would write: valid ones, damaged. Seeded, so a failure can be had again.

FUZZ_INPUTS says how many inputs each decoder gets; the suite's few find what is common, ten thousand what is rare."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from random import Random
from typing import Any

import pytest

INPUTS = int(os.environ.get("FUZZ_INPUTS", "300"))
_WORDS = (
    b"",
    b"\x00",
    b"\xff\xfe",
    b"NaN",
    b"-1e999",
    b"9" * 400,
    b"\xed\xa0\x80",
    b"[" * 2000,
    b"{}",
    b"null",
    b"\n",
    b'"',
)


def damaged(valid: Sequence[bytes], *, seed: int = 0, inputs: int = INPUTS) -> Iterator[tuple[int, bytes]]:
    """Each valid input as it is, then *inputs* damaged ones, each with its number."""
    yield from enumerate(valid)
    for number in range(inputs):
        random = Random(f"{seed}/{number}")
        content = random.choice(valid)
        for _ in range(random.choice((1, 1, 1, 2, 4, 16))):
            content = random.choice(_DAMAGES)(content, random)
        yield number, content


ODD_VALUES: tuple[Any, ...] = (
    None, True, 0, -0.0, 5, 0.3, 1e308, -1e308, 5e-324, 2**63, -(2**63), 2**64, 10**400, float("nan"), float("inf"),
    "", " ", "late", "NA", "\x00", "\ud800", "a" * 70_000, "0001-01-01", "9999-12-31T23:59:59+14:00", "0000-00-00",
    "2013-02-30", "10000-01-01", "2013-03-01T05:00:00Z", [], [1], {}, {"a": 1}, [[[[]]]],
)  # fmt: skip
"""Values that JSON, a CSV cell or a label may hold, and that no one expects."""


def odd_rows(row: Mapping[str, Any], *, seed: int = 0, inputs: int = INPUTS) -> Iterator[tuple[int, dict[str, Any]]]:
    """*row* with one to three of its values replaced by odd ones, each with its number."""
    for number in range(inputs):
        random = Random(f"odd/{seed}/{number}")
        names = random.sample(list(row), random.randint(1, min(3, len(row))))
        yield number, {**row, **{name: random.choice(ODD_VALUES) for name in names}}


def _cut(content: bytes, random: Random) -> bytes:
    return content[: random.randrange(len(content) + 1)]


def _flip(content: bytes, random: Random) -> bytes:
    if not content:
        return content
    at = random.randrange(len(content))
    return content[:at] + bytes([content[at] ^ (1 << random.randrange(8))]) + content[at + 1 :]


def _overwrite(content: bytes, random: Random) -> bytes:
    at = random.randrange(len(content) + 1)
    word = random.randbytes(random.choice((1, 2, 4, 8)))
    return content[:at] + word + content[at + len(word) :]


def _insert(content: bytes, random: Random) -> bytes:
    at = random.randrange(len(content) + 1)
    return content[:at] + random.choice(_WORDS) + content[at:]


def _remove(content: bytes, random: Random) -> bytes:
    at = random.randrange(len(content) + 1)
    return content[:at] + content[at + random.choice((1, 2, 8, 64)) :]


def _repeat(content: bytes, random: Random) -> bytes:
    at = random.randrange(len(content) + 1)
    return content[:at] + content[at : at + random.choice((4, 32, 256))] * 2 + content[at:]


_DAMAGES: tuple[Callable[[bytes, Random], bytes], ...] = (_cut, _flip, _flip, _overwrite, _insert, _remove, _repeat)


def outcomes(
    inputs: Iterable[tuple[int, Any]], read: Callable[[Any], object], refusals: tuple[type[Exception], ...]
) -> tuple[int, int]:
    """How many *inputs* were read, and how many refused with one of *refusals*. Any other exception fails the test,
    which says which input it was."""
    taken = refused = 0
    for number, content in inputs:
        try:
            read(content)
        except refusals:
            refused += 1
        except Exception as error:  # noqa: BLE001 - this is what is looked for
            pytest.fail(f"input {number} ({repr(content)[:200]}…): {type(error).__name__}: {error}")
        else:
            taken += 1
    return taken, refused
