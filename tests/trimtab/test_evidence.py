"""What pairs say about the release on trial: who is who, what breaks a guardrail, how much data time went by."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab import evidence
from trimtab.rollout import Standing, Terms

NEW, OLD = "n" * 64, "o" * 64
TERMS = Terms(task="binary")
SHADOW = Standing("shadow", 0.0, 3)
COURT = Standing("champion", 1.0, 7, 0, "2013-03-02T00:00:00+00:00")


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


def broken(pairs: pd.DataFrame, terms: Terms = TERMS) -> tuple[str, ...]:
    return evidence.guardrails(evidence.oriented(pairs, NEW, terms), terms)


def test_a_sound_challenger_breaks_nothing() -> None:
    assert broken(paired()) == ()


def test_the_release_on_trial_is_the_same_one_before_and_after_its_promotion() -> None:
    trial, court = paired(10), paired(10, champion=NEW, challenger=OLD)
    found = evidence.oriented(pd.concat([trial, court], ignore_index=True), NEW, TERMS)
    assert found["new"].tolist() == [*trial["challenger_prediction"], *court["champion_prediction"]]
    assert found["old"].tolist() == [*trial["champion_prediction"], *court["challenger_prediction"]]
    assert found["new_us"].tolist() == [120.0] * 10 + [100.0] * 10
    assert found["exposed"].tolist() == [False] * 10 + [True] * 10
    assert evidence.oriented(paired(5, champion="x", challenger="y"), NEW, TERMS).empty


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"error": ["KeyError: 'HA'"] * 3 + [None] * 397}, "failed on 3 of 400 requests"),
        (
            {"challenger_prediction": [float("nan")] * 3 + [0.5, 0.6] * 198 + [0.1]},
            "3 of its 400 answers are no number",
        ),
        ({"challenger_us": 25_000.0}, "25 ms for a call, the champion 0.1 ms"),
        ({"challenger_prediction": 0.2}, "same answer to everything: 0.2"),
    ],
    ids=["errors", "missing", "slow", "constant"],
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
    assert evidence.distance_beyond(one, other) <= shift + 1e-12


def test_labels_count_in_the_order_they_arrive() -> None:
    pairs = paired(6)
    arrived = pairs["time"].iloc[::-1].reset_index(drop=True)
    known = evidence.labelled(evidence.oriented(pairs, NEW, TERMS), labels_of(pairs, 1.0, arrived=arrived))
    assert known["prediction_id"].tolist() == pairs["prediction_id"].tolist()[::-1]


def test_differences_are_losses_of_the_release_on_trial_less_the_others() -> None:
    pairs = paired(2, champion_prediction=[0.5, 0.5], challenger_prediction=[0.9, 0.9])
    known = evidence.labelled(evidence.oriented(pairs, NEW, TERMS), labels_of(pairs, [1.0, 0.0]))
    assert evidence.differences(known, NEW, OLD, TERMS) == pytest.approx([0.01 - 0.25, 0.81 - 0.25])


def test_models_that_know_other_labels_are_compared_all_the_same() -> None:
    terms = Terms(task="multiclass", classes={OLD: ("a", "b"), NEW: ("c", "a", "b")})
    pairs = paired(
        2, champion_prediction=0.5, challenger_prediction=0.6,
        champion_probabilities=[[0.5, 0.5], [0.5, 0.5]], challenger_probabilities=[[0.6, 0.2, 0.2], [0.6, 0.2, 0.2]],
    )  # fmt: skip
    known = evidence.labelled(evidence.oriented(pairs, NEW, terms), labels_of(pairs, ["c", "a"]))
    old = [(1 + 0.25 + 0.25) / 2, (0.25 + 0.25) / 2]
    new = [(0.16 + 0.04 + 0.04) / 2, (0.64 + 0.04 + 0.36) / 2]
    assert evidence.differences(known, NEW, OLD, terms) == pytest.approx(np.subtract(new, old))


def test_rows_in_no_order_and_strange_times_do_not_make_the_time_pass() -> None:
    ordered = paired(480)
    assert timedelta(days=18) < evidence.elapsed(ordered) < timedelta(days=20)
    shuffled = ordered.assign(time=ordered["time"].sample(frac=1, random_state=3).to_numpy())
    assert evidence.elapsed(shuffled) < timedelta(days=7)
    strange = ordered.assign(time=ordered["time"].where(ordered.index != 479, pd.Timestamp("2030-01-01", tz="UTC")))
    assert evidence.elapsed(strange) < timedelta(days=20)
    assert evidence.elapsed(ordered.iloc[:0]) == timedelta(0)


def test_the_court_hears_only_labels_that_came_after_those_of_the_promotion() -> None:
    pairs = paired(48, champion=NEW, challenger=OLD, champion_prediction=0.9, challenger_prediction=0.1)
    labels = labels_of(pairs, 0.0)
    trial = evidence.seen(pairs, labels, release=NEW, other=OLD, at=SHADOW, terms=TERMS)
    court = evidence.seen(pairs, labels, release=NEW, other=OLD, at=COURT, terms=TERMS)
    assert (trial.labels, court.labels) == (48, 23)
    assert court.broken == ()


def test_labels_shuffled_in_training_are_seen_by_the_verdict() -> None:
    random = np.random.default_rng(5)
    truth = (random.random(3000) < 0.5).astype(float)
    good = np.where(truth == 1, 0.7, 0.3)
    pairs = paired(3000, champion_prediction=good, challenger_prediction=random.permutation(good))
    found = evidence.seen(pairs, labels_of(pairs, truth), release=NEW, other=OLD, at=SHADOW, terms=TERMS)
    assert found.verdict == "roll back"
    assert found.labels_until == pairs["time"].max().isoformat()
    assert found.exposed == 0
