"""Framing: what was written whole is read, whatever happened to the rest."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stores.telemetry.wal.encoding import decode, encode
from stores.telemetry.wal.framing import MAGIC, frame, scan
from stores.telemetry.wal.ids import data_time_us, first_id, is_prediction_id, new_ids

payloads = st.lists(st.text().map(str.encode), max_size=8)
moments = st.integers(-62_135_596_800, 253_402_300_799).map(lambda s: s * 1_000_000)


@settings(deadline=None)
@given(payloads)
def test_what_is_packed_is_read_back_in_order(contents: list[bytes]) -> None:
    packed = b"".join(frame(content, i, i + 1) for i, content in enumerate(contents))
    found = list(scan(packed))
    assert [bytes(r.payload) for r in found] == contents
    assert [(r.first_us, r.last_us) for r in found] == [(i, i + 1) for i in range(len(contents))]


@settings(deadline=None)
@given(payloads, st.data())
def test_a_torn_tail_costs_only_the_record_that_was_torn(contents: list[bytes], data: st.DataObject) -> None:
    records = [frame(content, 0, 0) for content in contents]
    packed = b"".join(records)
    cut = data.draw(st.integers(0, len(packed)))
    whole, end = 0, 0
    for record in records:
        end += len(record)
        whole += end <= cut
    assert [bytes(r.payload) for r in scan(packed[:cut])] == contents[:whole]


@settings(deadline=None)
@given(st.lists(st.text().map(str.encode), min_size=1, max_size=8), st.data())
def test_a_damaged_byte_costs_only_its_own_record(contents: list[bytes], data: st.DataObject) -> None:
    records = [frame(content, 0, 0) for content in contents]
    hit = data.draw(st.integers(0, len(records) - 1))
    at = data.draw(st.integers(0, len(records[hit]) - 1))
    flip = data.draw(st.integers(1, 255))
    damaged = bytearray(records[hit])
    damaged[at] ^= flip
    packed = b"".join([*records[:hit], bytes(damaged), *records[hit + 1 :]])
    assert [bytes(r.payload) for r in scan(packed)] == contents[:hit] + contents[hit + 1 :]


@settings(deadline=None)
@given(st.lists(moments, min_size=1, max_size=50))
def test_ids_are_unique_and_tell_their_data_time(times: list[int]) -> None:
    ids = new_ids(times) + new_ids(times)
    assert len(set(ids)) == len(ids)
    assert all(is_prediction_id(i) for i in ids)
    assert [data_time_us(i) for i in ids] == times * 2


@settings(deadline=None)
@given(moments, moments)
def test_ids_are_ordered_as_their_times(a: int, b: int) -> None:
    (one,) = new_ids([a])
    assert (one >= first_id(b)) == (a >= b)


@pytest.mark.parametrize("size", [1, 31, 32, 100])
def test_ids_are_the_same_kind_however_many_are_taken_and_however_times_come(size: int) -> None:
    times = [(-1) ** i * i * 1_000_001_000 for i in range(size)]
    listed, arrayed = new_ids(times), new_ids(np.array(times))
    assert all(map(is_prediction_id, listed + arrayed))
    assert [i[:10] for i in listed] == [i[:10] for i in arrayed]
    assert [data_time_us(i) for i in listed] == [t // 1_000_000 * 1_000_000 for t in times]


@pytest.mark.parametrize("size", [10, 100])
def test_an_id_cannot_be_guessed_from_others(size: int) -> None:
    """Of the digits after the time, no place is the same in all ids, nor rises with them."""
    ids = new_ids([0] * size * 20)
    for place in range(10, 32):
        digits = [int(i[place], 16) for i in ids]
        assert len(set(digits)) == 16
        assert abs(np.corrcoef(digits, np.arange(len(ids)))[0, 1]) < 0.5


texts = st.one_of(st.none(), st.text(max_size=8))
rows = st.lists(st.tuples(st.integers(-(2**62), 2**62), st.floats(), st.floats(), texts, st.booleans()), max_size=40)


@settings(deadline=None)
@given(rows)
def test_rows_are_read_back_as_they_were_written(content: list[tuple[int, float, float, str | None, bool]]) -> None:
    times, one, two, words, flags = (list(column) for column in zip(*content, strict=True)) if content else [[]] * 5
    ids = new_ids([0] * len(content))
    given_floats: dict[str, Any] = {"one": one, "two": np.array(two, dtype=float)}
    payload = encode({"x": 1}, ids=ids, times_us=times, floats=given_floats, texts={"t": words}, flags=flags)
    assert MAGIC not in payload
    found = decode(memoryview(payload))
    assert (found.size, found.names, found.head["x"], found.head["texts"]["t"]) == (len(ids), ("one", "two"), 1, words)
    assert bytes(found.ids).decode() == "".join(ids)
    assert struct.unpack(f"<{len(ids)}q", found.times) == tuple(times)
    np.testing.assert_array_equal(found.floats, np.array([one, two], dtype=float).reshape(2, len(ids)))
    assert list(found.flags) == flags


def test_numbers_that_look_like_the_beginning_of_a_record_are_none() -> None:
    """Whoever asks for predictions chooses the numbers, and could forge a record for a scan that lost its place."""
    forged = frame(b"forged, to be as long as a multiple of eight bytes..", 0, 0)
    numbers = np.frombuffer(forged, "<f8")
    ids = new_ids([0] * len(numbers))
    floats = {"x": numbers, "y": numbers}
    payload = encode({}, ids=ids, times_us=[0] * len(numbers), floats=floats, texts={})
    torn = frame(payload, 0, 0)[:-1]
    assert [bytes(r.payload) for r in scan(torn + frame(b"next", 0, 0))] == [b"next"]
    assert decode(memoryview(payload)).floats.tobytes() == forged * 2


@pytest.mark.parametrize("kind", ["gaps", "float32", "integers", "None"])
def test_numbers_are_taken_in_every_form(kind: str) -> None:
    forms: dict[str, Any] = {
        "gaps": np.arange(6.0).reshape(3, 2)[:, 0],
        "float32": np.array([0, 2, 4], dtype=np.float32),
        "integers": np.array([0, 2, 4]),
        "None": [0, 2, None],
    }
    payload = encode({}, ids=new_ids([0] * 3), times_us=[0] * 3, floats={"x": forms[kind]}, texts={})
    expected = [[0, 2, np.nan if kind == "None" else 4]]
    np.testing.assert_array_equal(decode(memoryview(payload)).floats, np.array(expected, dtype=float))
