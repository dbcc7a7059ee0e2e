"""Framing: what was written whole is read, whatever happened to the rest."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from stores.telemetry.ids import Ids, data_time_us, first_id, is_prediction_id
from stores.telemetry.records import pack, scan

payloads = st.lists(st.text().map(str.encode), max_size=8)
moments = st.integers(-62_135_596_800, 253_402_300_799).map(lambda s: s * 1_000_000)


@settings(deadline=None)
@given(payloads)
def test_what_is_packed_is_read_back_in_order(contents: list[bytes]) -> None:
    packed = b"".join(pack(content, i, i + 1) for i, content in enumerate(contents))
    found = list(scan(packed))
    assert [bytes(r.payload) for r in found] == contents
    assert [(r.first_us, r.last_us) for r in found] == [(i, i + 1) for i in range(len(contents))]


@settings(deadline=None)
@given(payloads, st.data())
def test_a_torn_tail_costs_only_the_record_that_was_torn(contents: list[bytes], data: st.DataObject) -> None:
    records = [pack(content, 0, 0) for content in contents]
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
    records = [pack(content, 0, 0) for content in contents]
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
    source = Ids()
    ids = source.take(times) + source.take(times) + Ids().take(times)
    assert len(set(ids)) == len(ids)
    assert all(is_prediction_id(i) for i in ids)
    assert [data_time_us(i) for i in ids] == times * 3


@settings(deadline=None)
@given(moments, moments)
def test_ids_are_ordered_as_their_times(a: int, b: int) -> None:
    (one,) = Ids().take([a])
    assert (one >= first_id(b)) == (a >= b)
