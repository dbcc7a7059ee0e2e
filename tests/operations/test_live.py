"""Which release a rollback goes back to, on a real ledger."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operations.context import ProjectContext
from operations.live import NothingBefore, previous_release
from stores.ledger import Ledger
from stores.ledger.migrations import migrate
from tests.trimtab import sample_rows
from trimtab.config.settings import Settings


def place_with(folder: Path, *moves: str) -> ProjectContext:
    """A project whose history is *moves*: `a` promotes a, `<a` goes back to a."""
    ledger = Ledger(f"sqlite:///{folder / 'ledger.db'}")
    migrate(ledger)
    ctx = ProjectContext(Settings(project=folder), sample_rows.params(), ledger)
    for move in moves:
        go(ctx, move)
    return ctx


def go(ctx: ProjectContext, move: str) -> None:
    name, now = move.removeprefix("<"), ctx.ledger.live()
    ctx.ledger.record_release(name, model_name="m", model_version=1, run_id="r", manifest={})
    ctx.ledger.switch(
        name,
        expected=now.version if now else 0,
        move="rollback" if move[0] == "<" else "promote",
        reason="r",
        actor="a",
    )


@pytest.mark.parametrize(
    ("moves", "target"),
    [
        (["aa", "bb"], "aa"),
        (["aa", "bb", "cc"], "bb"),
        (["aa", "bb", "cc", "<bb"], "aa"),
        (["aa", "bb", "<aa", "cc"], "aa"),
        (["aa", "bb", "cc", "<aa", "dd"], "aa"),
        (["aa", "bb", "aa"], "bb"),
        (["aa", "bb", "aa", "<bb"], "aa"),
        (["aa", "aa", "bb"], "aa"),
        (["aa", "<bb"], "aa"),
    ],
    ids=" ".join,
)
def test_it_goes_back_to_the_release_before_and_never_to_one_that_was_left(
    tmp_path: Path, moves: list[str], target: str
) -> None:
    assert previous_release(place_with(tmp_path, *moves), None) == (target, len(moves))


@pytest.mark.parametrize(
    ("moves", "says"), [([], "nothing is live"), (["aa"], "aa is the first"), (["aa", "bb", "<aa"], "aa is the first")]
)
def test_with_nothing_before_it_says_so(tmp_path: Path, moves: list[str], says: str) -> None:
    with pytest.raises(NothingBefore, match=says):
        previous_release(place_with(tmp_path, *moves), None)


def test_a_release_may_be_named(tmp_path: Path) -> None:
    ctx = place_with(tmp_path, "aa1", "bb2", "cc3")
    assert previous_release(ctx, "aa1") == ("aa1", 3)
    assert previous_release(ctx, "a") == ("aa1", 3)
    with pytest.raises(LookupError):
        previous_release(ctx, "zz")


@settings(max_examples=12, deadline=None)
@given(st.lists(st.sampled_from(["aa", "bb", "cc", "dd"]), min_size=1, max_size=6))
def test_going_back_again_and_again_walks_the_whole_way(
    tmp_path_factory: pytest.TempPathFactory, promoted: list[str]
) -> None:
    ctx = place_with(tmp_path_factory.mktemp("walk"), *promoted)
    way = [name for name, before in zip(promoted, [None, *promoted], strict=False) if name != before]
    for target in reversed(way[:-1]):
        assert previous_release(ctx, None)[0] == target
        go(ctx, f"<{target}")
    with pytest.raises(NothingBefore):
        previous_release(ctx, None)
