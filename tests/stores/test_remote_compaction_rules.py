"""Whatever several who tidy do to the parts of a writer, one after another or in each other's way, with listings that
are long out of date: those that count have every segment exactly once. No store is needed to see that."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from unittest.mock import patch

import pytest

from stores.telemetry.parquet import files
from stores.telemetry.parquet.files import ParquetPart
from stores.telemetry.remote import compaction, replica
from stores.telemetry.remote.replica import key_of

WRITER = "w"
Store = dict[str, ParquetPart]


def part(name: str) -> ParquetPart:
    found = files.parse_part(name, Path())
    assert found is not None
    return replace(found, key=key_of("s", found), size=1, written_s=0.0)


def single(number: int) -> ParquetPart:
    return part(f"{WRITER}-{number:06d}.{number}.{number}.parquet")


def put(store: Store, one: ParquetPart) -> None:
    assert one.key is not None
    store.setdefault(one.key, one)


def compacting(store: Store, *, is_gone: bool) -> Iterator[None]:
    """One who tidies: after every step something else may happen."""
    for level in range(1, 4):
        listed = list(store.values())
        yield
        counting = files.visible_parts(listed)
        for other in listed:
            if other not in counting:
                store.pop(str(other.key), None)
                yield
        for block in list(compaction._blocks(counting, level, {WRITER}, {WRITER} if is_gone else set())):
            yield
            put(store, part(files.merged_name(block)))
            yield
            for member in block:
                store.pop(str(member.key), None)
                yield


def life(random: Random, store: Store, steps: int) -> Iterator[tuple[list[int], set[int]]]:
    """What may happen to a writer's parts, step by step: what was uploaded so far, and the gaps."""
    gaps, uploaded, compactors = (
        set(random.sample(range(30), random.randint(0, 3))),
        list[int](),
        list[Iterator[None]](),
    )
    for _ in range(steps):
        what = random.choice(["upload", "upload again", "begin", "step", "step", "step"])
        if what == "upload":
            number = next(n for n in range(uploaded[-1] + 1 if uploaded else 0, 1000) if n not in gaps)
            put(store, single(number))
            uploaded.append(number)
        elif what == "upload again" and uploaded:
            put(store, single(random.choice(uploaded)))
        elif what == "begin" and len(compactors) < 3:
            compactors.append(compacting(store, is_gone=random.random() < 0.5))
        elif what == "step" and compactors:
            one = random.choice(compactors)
            if next(one, "over") == "over":
                compactors.remove(one)
        yield uploaded, gaps


@pytest.mark.parametrize("fan", [2, 3])
def test_every_segment_counts_exactly_once_at_every_moment(fan: int) -> None:
    """A thousand lives; without the rule on where the parts of a writer end that is gone, some of them go wrong."""
    with patch.object(replica, "FANOUT", fan), patch.object(compaction, "FANOUT", fan):
        for seed in range(1000):
            store: Store = {}
            for uploaded, gaps in life(Random(seed), store, steps=60):
                counted = [n for p in files.visible_parts(store.values()) for n in range(p.number, p.last_number + 1)]
                assert len(counted) == len(set(counted)), f"life {seed}: twice"
                assert sorted(set(counted) - gaps) == uploaded, f"life {seed}: lost"


def test_when_all_have_finished_few_are_left() -> None:
    store: Store = {}
    with patch.object(replica, "FANOUT", 4), patch.object(compaction, "FANOUT", 4):
        for number in range(100):
            put(store, single(number))
            for _ in compacting(store, is_gone=False):
                pass
        assert len(store) == 1 + 2 + 1  # 0 to 63, 64 to 79 and 80 to 95, 96 to 99
        for _ in compacting(store, is_gone=True):
            pass
        assert len(store) <= 3
