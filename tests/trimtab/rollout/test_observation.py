"""Observations of a rollout: who is challenger, which guardrails break, how much data time has passed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.rollout import observation
from trimtab.rollout.state_machine import RolloutPolicy, RolloutState

NEW, OLD = "n" * 64, "o" * 64
POLICY = RolloutPolicy(task="binary")
SHADOW = RolloutState("shadow", 0.0, 3)
PROBATION = RolloutState("champion", 1.0, 7, 0, "2013-03-02T00:00:00+00:00")


def paired(rows: int = 400, *, seed: int = 0, **columns: Any) -> pd.DataFrame:
    """Pairs as telemetry gives them: NEW is the challenger, each in a call of its own, an hour apart."""
    random = np.random.default_rng(seed)
    old = random.uniform(0.05, 0.95, rows)
    times = pd.Timestamp("2013-03-01", tz="UTC") + pd.to_timedelta(np.arange(rows), unit="h")
    frame = pd.DataFrame(
        {
            "prediction_id": [f"{i:032x}" for i in range(rows)], "time": times, "received_at": times,
            "rollout": "r", "champion": OLD, "challenger": NEW, "by_challenger": False,
            "champion_prediction": old, "challenger_prediction": np.clip(old + random.normal(0, 0.02, rows), 0, 1),
            "error": pd.Series([None] * rows, dtype=object), "champion_us": 100.0, "challenger_us": 120.0,
            "rows_in_call": 1, "origin": np.where(np.arange(rows) % 2, "JFK", "EWR"),
        }
    )  # fmt: skip
    return frame.assign(**columns)


def labels_of(pairs: pd.DataFrame, values: Any, *, arrived: Any = None) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "prediction_id": pairs["prediction_id"], "label": values,
            "received_at": pairs["time"] if arrived is None else arrived,
        }
    )  # fmt: skip


def broken(pairs: pd.DataFrame, policy: RolloutPolicy = POLICY) -> tuple[str, ...]:
    return observation.broken_guardrails(observation.orient_pairs(pairs, NEW, policy), policy)


def test_a_sound_challenger_breaks_nothing() -> None:
    assert broken(paired()) == ()


def test_the_release_is_oriented_alike_before_and_after_its_promotion() -> None:
    shadow, probation = paired(10), paired(10, champion=NEW, challenger=OLD)
    found = observation.orient_pairs(pd.concat([shadow, probation], ignore_index=True), NEW, POLICY)
    assert found["new"].tolist() == [*shadow["challenger_prediction"], *probation["champion_prediction"]]
    assert found["old"].tolist() == [*shadow["champion_prediction"], *probation["challenger_prediction"]]
    assert found["new_us"].tolist() == [120.0] * 10 + [100.0] * 10
    assert found["exposed"].tolist() == [False] * 10 + [True] * 10
    assert observation.orient_pairs(paired(5, champion="x", challenger="y"), NEW, POLICY).empty


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"error": ["KeyError: 'HA'"] * 3 + [None] * 397}, "failed on 3 of 400 requests"),
        (
            {"challenger_prediction": [float("nan")] * 3 + [0.5, 0.6] * 198 + [0.1]},
            "3 of its 400 answers are no number",
        ),
        ({"challenger_us": 25_000.0}, "takes 25 ms or more, of the champion's 0.1 ms"),
        ({"challenger_us": [500_000.0, *[100.0] * 5] * 66 + [100.0] * 4}, "takes 500 ms or more"),
        ({"challenger_prediction": 0.2}, "same answer to everything: 0.2"),
    ],
    ids=["errors", "missing", "slow", "slow now and then", "constant"],
)
def test_a_guardrail_breaks_without_any_label(change: dict[str, Any], words: str) -> None:
    (why,) = broken(paired(**change))
    assert words in why


@pytest.mark.parametrize(
    "change",
    [
        {"error": ["oops"] * 2 + [None] * 398},
        {"challenger_prediction": [float("nan")] * 2 + [0.5, 0.6] * 199},
        {"challenger_us": 19_000.0},
        {"challenger_us": 50_000.0, "champion_us": 20_000.0},
        {"challenger_prediction": 0.2, "champion_prediction": 0.3},
    ],
    ids=["two errors", "two missing", "quick enough", "as slow as the champion", "both constant"],
)
def test_what_is_within_bounds_breaks_nothing(change: dict[str, Any]) -> None:
    assert broken(paired(**change)) == ()


def test_too_few_answers_break_only_what_needs_no_number_of_them() -> None:
    assert broken(paired(99, challenger_us=90_000.0)) == ()
    assert len(broken(paired(99, error="oops"))) == 1


def test_users_must_get_what_the_shadow_gives() -> None:
    random = np.random.default_rng(1)
    dealt = random.random(4000) < 0.3
    same = random.uniform(0, 1, 4000)
    assert broken(paired(4000, by_challenger=dealt, challenger_prediction=same)) == ()
    shifted = np.where(dealt, same * 0.4, same)
    (why,) = broken(paired(4000, by_challenger=dealt, challenger_prediction=shifted))
    assert "distributed otherwise" in why


@given(shift=st.floats(0, 1), size=st.integers(50, 400), seed=st.integers(0, 1000))
def test_the_distance_never_claims_more_than_there_is(shift: float, size: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    one, other = random.uniform(0, 1, size), random.uniform(0, 1, size) + shift
    assert observation.ks_distance_lower_bound(one, other) <= shift + 1e-12


def test_labels_count_in_the_order_they_arrive() -> None:
    pairs = paired(6)
    arrived = pairs["time"].iloc[::-1].reset_index(drop=True)
    known = observation.join_labels(
        observation.orient_pairs(pairs, NEW, POLICY), labels_of(pairs, 1.0, arrived=arrived)
    )
    assert known["prediction_id"].tolist() == pairs["prediction_id"].tolist()[::-1]


def test_differences_are_losses_of_the_release_minus_the_others() -> None:
    pairs = paired(2, champion_prediction=[0.5, 0.5], challenger_prediction=[0.9, 0.9])
    known = observation.join_labels(observation.orient_pairs(pairs, NEW, POLICY), labels_of(pairs, [1.0, 0.0]))
    assert observation.differences(known, NEW, OLD, POLICY) == pytest.approx([0.01 - 0.25, 0.81 - 0.25])


def test_models_that_know_other_labels_are_compared_all_the_same() -> None:
    policy = RolloutPolicy(task="multiclass", classes={OLD: ("a", "b"), NEW: ("c", "a", "b")})
    pairs = paired(
        2, champion_prediction=0.5, challenger_prediction=0.6,
        champion_probabilities=[[0.5, 0.5], [0.5, 0.5]], challenger_probabilities=[[0.6, 0.2, 0.2], [0.6, 0.2, 0.2]],
    )  # fmt: skip
    known = observation.join_labels(observation.orient_pairs(pairs, NEW, policy), labels_of(pairs, ["c", "a"]))
    old = [(1 + 0.25 + 0.25) / 2, (0.25 + 0.25) / 2]
    new = [(0.16 + 0.04 + 0.04) / 2, (0.64 + 0.04 + 0.36) / 2]
    assert observation.differences(known, NEW, OLD, policy) == pytest.approx(np.subtract(new, old))


def test_rows_in_no_order_and_strange_times_do_not_make_the_time_pass() -> None:
    ordered = paired(480)
    assert timedelta(days=18) < observation.elapsed(ordered) < timedelta(days=20)
    shuffled = ordered.assign(time=ordered["time"].sample(frac=1, random_state=3).to_numpy())
    assert observation.elapsed(shuffled) < timedelta(days=7)
    strange = ordered.assign(time=ordered["time"].where(ordered.index != 479, pd.Timestamp("2030-01-01", tz="UTC")))
    assert observation.elapsed(strange) < timedelta(days=20)
    assert observation.elapsed(ordered.iloc[:0]) == timedelta(0)


def test_in_probation_only_labels_count_that_came_after_those_of_the_promotion() -> None:
    pairs = paired(48, champion=NEW, challenger=OLD, champion_prediction=0.9, challenger_prediction=0.1)
    labels = labels_of(pairs, 0.0)
    shadow = observation.observe(pairs, labels, release=NEW, other=OLD, at=SHADOW, policy=POLICY)
    probation = observation.observe(pairs, labels, release=NEW, other=OLD, at=PROBATION, policy=POLICY)
    assert (shadow.labels, probation.labels) == (48, 23)
    assert probation.broken == ()


def test_labels_shuffled_in_training_are_seen_by_the_verdict() -> None:
    random = np.random.default_rng(5)
    truth = (random.random(3000) < 0.5).astype(float)
    good = np.where(truth == 1, 0.7, 0.3)
    pairs = paired(3000, champion_prediction=good, challenger_prediction=random.permutation(good))
    found = observation.observe(pairs, labels_of(pairs, truth), release=NEW, other=OLD, at=SHADOW, policy=POLICY)
    assert found.verdict == "roll back"
    assert found.labels_until == pairs["time"].max().isoformat()
    assert found.exposed == 0


def daily_traffic(days: int, *, new: float, old: float = 0.7, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A hundred rows a day, each day with a base rate of its own; both models rank well with their skill."""
    random = np.random.default_rng(seed)
    rate = np.repeat(random.uniform(0.1, 0.6, days), 100)
    truth = (random.random(days * 100) < rate).astype(float)
    said = {
        s: np.where(random.random(days * 100) < s, 0.2 + 0.6 * truth, random.random(days * 100)) for s in (new, old)
    }
    times = pd.Timestamp("2013-03-01", tz="UTC") + pd.to_timedelta(np.repeat(np.arange(days), 100), unit="D")
    pairs = paired(
        days * 100, champion_prediction=said[old], challenger_prediction=said[new], time=times, received_at=times
    )
    return pairs, labels_of(pairs, truth)


BY_BLOCK = RolloutPolicy(
    task="binary",
    block=timedelta(days=1),
    metric="roc_auc",
    metric_margin=0.01,
    metric_slices={"origin": 0.05},
    slices={"origin": 0.1},
    min_labels=200,
)


@pytest.mark.parametrize(
    ("days", "skill", "outcome"),
    [(10, 0.95, "promote"), (10, 0.0, "roll back"), (3, 0.95, "keep collecting"), (3, 0.0, "keep collecting")],
)
def test_with_blocks_the_gates_metric_decides_from_day_to_day(days: int, skill: float, outcome: str) -> None:
    pairs, labels = daily_traffic(days, new=skill)
    found = observation.observe(pairs, labels, release=NEW, other=OLD, at=SHADOW, policy=BY_BLOCK)
    assert found.verdict == outcome
    assert found.evidence["by_block"]["blocks"] == days
    assert found.suspected == (days == 3 and skill < 0.7)


def test_days_on_which_everything_is_late_do_not_speak_against_a_release_that_ranks_as_well() -> None:
    """A shift that is the same for all rows costs much Brier score and nothing of what the gate measures."""
    pairs, labels = daily_traffic(12, new=0.7)
    shifted = pairs.assign(challenger_prediction=pairs["champion_prediction"] * 0.01)
    everywhere = BY_BLOCK.model_copy(update={"slices": {}, "metric_slices": {}})
    found = observation.observe(shifted, labels, release=NEW, other=OLD, at=SHADOW, policy=everywhere)
    assert found.evidence["overall"]["difference"] > 0.02
    assert found.verdict == "promote"


def test_a_release_that_is_better_overall_is_not_promoted_over_a_slice_that_it_harms() -> None:
    pairs, labels = daily_traffic(12, new=0.95)
    is_jfk = (pairs["origin"] == "JFK").to_numpy()
    spoiled = pairs.assign(
        challenger_prediction=np.where(is_jfk, 1 - pairs["challenger_prediction"], pairs["challenger_prediction"])
    )
    found = observation.observe(spoiled, labels, release=NEW, other=OLD, at=SHADOW, policy=BY_BLOCK)
    assert found.verdict == "roll back"
    some = pairs.assign(  # better everywhere, and at JFK a coin is tossed now and then
        challenger_prediction=np.where(
            is_jfk & (np.arange(len(pairs)) % 10 < 6),
            pairs["champion_prediction"] * 0.1,
            pairs["challenger_prediction"],
        )
    )
    found = observation.observe(some, labels, release=NEW, other=OLD, at=SHADOW, policy=BY_BLOCK)
    assert found.verdict != "promote"


def test_a_slice_that_only_looks_worse_keeps_users_away_until_it_is_known() -> None:
    """Better everywhere, but that at JFK all get one answer: the order of so few rows shows nothing in eight days, the
    losses of their labels do."""
    pairs, labels = daily_traffic(8, new=0.95, old=0.3)
    is_jfk = (pairs["origin"] == "JFK").to_numpy()
    pairs = pairs.assign(challenger_prediction=np.where(is_jfk, 0.6, pairs["challenger_prediction"]))
    found = observation.observe(pairs, labels, release=NEW, other=OLD, at=SHADOW, policy=BY_BLOCK)
    assert found.evidence["overall"]["difference"] < 0
    assert (found.verdict, found.suspected) == ("keep collecting", True)
    assert "not worse overall, but it looks worse where origin JFK" in found.reason


def test_with_blocks_other_tasks_are_held_to_their_gates_metric_as_well() -> None:
    random = np.random.default_rng(0)
    truth = random.normal(0, 10, 1200)
    times = pd.Timestamp("2013-03-01", tz="UTC") + pd.to_timedelta(np.repeat(np.arange(12), 100), unit="D")
    pairs = paired(
        1200, champion_prediction=truth + random.normal(0, 3, 1200), time=times, received_at=times,
        challenger_prediction=truth + random.normal(0, 2, 1200),
    )  # fmt: skip
    policy = RolloutPolicy(task="regression", block=timedelta(days=1), metric="rmse", cap=9.0, metric_margin=0.01)
    found = observation.observe(pairs, labels_of(pairs, truth), release=NEW, other=OLD, at=SHADOW, policy=policy)
    assert found.verdict == "promote"
    said = [["a", "b"][int(v)] for v in random.random(1200) < 0.5]
    sure = [[0.8, 0.2] if v == "a" else [0.2, 0.8] for v in said]
    worse = [[0.6, 0.4] if random.random() < 0.7 else [0.4, 0.6] for _ in said]
    pairs = pairs.assign(champion_probabilities=pd.Series(sure), challenger_probabilities=pd.Series(worse))
    policy = RolloutPolicy(
        task="multiclass", block=timedelta(days=1), metric="accuracy", classes={OLD: ("a", "b"), NEW: ("a", "b")}
    )
    found = observation.observe(pairs, labels_of(pairs, said), release=NEW, other=OLD, at=SHADOW, policy=policy)
    assert found.verdict == "roll back"
