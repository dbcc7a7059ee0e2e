"""The write-ahead log's framing: one record per request, which is either whole or not there. Pure bytes, no files.

A record is a header (magic, payload length, first and last data time, checksum) and the payload. The magic never
occurs in a payload (`stores.telemetry.wal.encoding` escapes it), so a damaged stretch is skipped by looking for the
next one."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

MAGIC = b"\xf5TT\xff"
_HEADER = struct.Struct("<4sIqqI")  # magic, length, first_us, last_us, crc32 of all that follows the magic but itself
HEADER_BYTES = _HEADER.size
_SUMMED = struct.Struct("<Iqq")


@dataclass(frozen=True, slots=True)
class Frame:
    """A whole record. The times bound those of the rows in it, in UTC microseconds; *start* and *end* are its place."""

    first_us: int
    last_us: int
    payload: memoryview
    start: int
    end: int


def header(payload: bytes, first_us: int, last_us: int) -> bytes:
    """What comes before *payload*; to be written in one piece with it."""
    checksum = zlib.crc32(payload, zlib.crc32(_SUMMED.pack(len(payload), first_us, last_us)))
    return _HEADER.pack(MAGIC, len(payload), first_us, last_us, checksum)


def frame(payload: bytes, first_us: int, last_us: int) -> bytes:
    """A record's bytes."""
    return header(payload, first_us, last_us) + payload


def scan(content: bytes | memoryview) -> Iterator[Frame]:
    """The whole records of *content*, in order. A torn or damaged stretch yields nothing and hides nothing after it."""
    view, raw = memoryview(content), bytes(content) if isinstance(content, memoryview) else content
    at = 0
    while (at := raw.find(MAGIC, at)) >= 0:
        record = _frame_at(view, at)
        if record is None:
            at += 1
        else:
            yield record
            at = record.end


def _frame_at(view: memoryview, at: int) -> Frame | None:
    if at + HEADER_BYTES > len(view):
        return None
    _, length, first_us, last_us, checksum = _HEADER.unpack_from(view, at)
    payload = view[at + HEADER_BYTES : at + HEADER_BYTES + length]
    if len(payload) != length:
        return None
    if zlib.crc32(payload, zlib.crc32(_SUMMED.pack(length, first_us, last_us))) != checksum:
        return None
    return Frame(first_us, last_us, payload, at, at + HEADER_BYTES + length)
