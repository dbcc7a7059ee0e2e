"""The report of an A/B experiment, computed from pairs, answers and labels."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import chisquare
from sklearn.metrics import roc_auc_score

from trimtab.experiment import analysis
from trimtab.experiment.markdown import to_markdown
from trimtab.experiment.report import Estimate, ExperimentPlan, Report, measures
from trimtab.rollout import observation
from trimtab.rollout.state_machine import RolloutPolicy

A, B = "a" * 64, "b" * 64
PLAN = ExperimentPlan(a=A, b=B, share=0.3)
POLICY = RolloutPolicy(task="binary", margin=0.01, slices={"origin": 0.02}, min_slice_labels=300)


def traffic(
    rows: int = 2000, *, skill_b: float = 0.7, keys: int = 500, seed: int = 0, **columns: Any
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Pairs, answers and labels of a week: A is right with 0.7, B with *skill_b*; keys below 0.3 are B's."""
    random = np.random.default_rng(seed)
    truth = random.random(rows) < 0.5
    said = [np.where((random.random(rows) < skill) == truth, 0.8, 0.2) for skill in (0.7, skill_b)]
    a, b = (p + random.uniform(-0.01, 0.01, rows) for p in said)
    number = random.integers(0, keys, rows)
    by_b = number < 0.3 * keys
    times = pd.Timestamp("2013-03-01", tz="UTC") + pd.to_timedelta(np.linspace(0, 7, rows), unit="D")
    ids = [f"{i:032x}" for i in range(rows)]
    pairs = pd.DataFrame(
        {
            "prediction_id": ids, "time": times, "received_at": times, "rollout": PLAN.id, "champion": A,
            "challenger": B, "by_challenger": by_b, "champion_prediction": a, "challenger_prediction": b,
            "error": pd.Series([None] * rows, dtype=object), "champion_us": 100.0, "challenger_us": 120.0,
            "rows_in_call": 1, "origin": np.where(np.arange(rows) % 2, "JFK", "EWR"),
        }
    )  # fmt: skip
    answers = pd.DataFrame(
        {
            "prediction_id": ids, "arm": np.where(by_b, "challenger", "champion"),
            "propensity": np.where(by_b, 0.3, 0.7), "prediction": np.where(by_b, b, a),
            "key": [f"k{n}" for n in number],
        }
    )  # fmt: skip
    labels = pd.DataFrame({"prediction_id": ids, "label": truth.astype(float), "received_at": times})
    return pairs.assign(**columns), answers, labels


def report(
    pairs: pd.DataFrame, answers: pd.DataFrame, labels: pd.DataFrame, *, plan: ExperimentPlan = PLAN,
    policy: RolloutPolicy = POLICY, metric: str = "roc_auc",
) -> Report:  # fmt: skip
    return analysis.report(
        plan, policy, metric=metric, state="running", reason="", pairs=pairs, answers=answers, labels=labels
    )


def test_a_better_b_is_found_better_and_a_worse_one_worse() -> None:
    assert report(*traffic(skill_b=0.8)).effect.finding == "B is better"
    assert report(*traffic(skill_b=0.6)).effect.finding == "B is worse"
    assert report(*traffic(rows=60)).effect.finding == "not told apart"


def test_two_that_say_nearly_the_same_differ_in_nothing_that_matters() -> None:
    pairs, answers, labels = traffic(4000)
    pairs["challenger_prediction"] = pairs["champion_prediction"] + 0.001
    found = report(pairs, answers, labels)
    assert found.effect.finding == "no difference that matters"
    assert -POLICY.margin < found.effect.low < found.effect.high < POLICY.margin


def test_the_interval_holds_however_often_one_looks() -> None:
    """Two alike: with a look after every hundredth label, at most alpha of the experiments ever exclude 0."""
    wrong, runs = 0, 40
    for seed in range(runs):
        pairs, _, labels = traffic(1500, seed=seed)
        known = observation.join_labels(observation.orient_pairs(pairs, B, POLICY), labels)
        differences = observation.differences(known, B, A, POLICY)
        looks = [analysis._effect(differences[:n], POLICY, alpha=0.1) for n in range(100, 1501, 100)]
        wrong += any(look.low > 0 or look.high < 0 for look in looks)
    assert wrong <= 0.1 * runs + 3 * np.sqrt(0.09 * runs)


def test_each_arm_is_measured_on_what_it_answered() -> None:
    pairs, answers, labels = traffic(skill_b=0.85)
    found = report(pairs, answers, labels.iloc[:1500])
    known = answers.merge(labels.iloc[:1500], on="prediction_id")
    for arm, name in ((found.a, "champion"), (found.b, "challenger")):
        mine = known[known["arm"] == name]
        assert (arm.answers, arm.labels) == ((answers["arm"] == name).sum(), len(mine))
        assert arm.metric.value == pytest.approx(roc_auc_score(mine["label"], mine["prediction"]))
        assert 0 < width(arm.metric) < 0.1
    assert found.gain.value == pytest.approx((found.b.metric.value or 0) - (found.a.metric.value or 0))
    assert found.gain.low is not None
    assert found.gain.low > 0


def test_few_keys_with_many_rows_make_the_interval_of_an_arm_wide() -> None:
    """Rows of one key are alike, so that a thousand of them are not a thousand draws."""
    pairs, answers, labels = traffic(4000, keys=4000)
    is_right = (answers["prediction"] > 0.5) == (labels["label"] == 1)
    alike = answers.assign(key=is_right.astype(str) + (answers.index % 6).astype(str))
    each, few = report(pairs, answers, labels).a.metric, report(pairs, alike, labels).a.metric
    assert each.value == few.value
    assert width(few) > 3 * width(each)


def width(found: Estimate) -> float:
    assert found.low is not None
    assert found.high is not None
    return found.high - found.low


@limits(deadline=None)
@given(a=st.integers(0, 400), b=st.integers(0, 400), share=st.floats(0.05, 0.95))
def test_the_sample_ratio_is_tested_by_pearsons_chi_square(a: int, b: int, share: float) -> None:
    answers = pd.DataFrame(
        {
            "prediction_id": [str(i) for i in range(a + b)], "arm": ["champion"] * a + ["challenger"] * b,
            "propensity": 0.5, "key": [f"k{i}" for i in range(a + b)],
        }
    )  # fmt: skip
    split = analysis.sample_ratio_check(answers, share)
    assert (split.a, split.b) == (a, b)
    if split.holds is None:
        assert (a + b) * min(share, 1 - share) < 5
        return
    theirs = chisquare([a, b], [(a + b) * (1 - share), (a + b) * share])
    assert split.chi_square == pytest.approx(theirs.statistic)
    assert split.p_value == pytest.approx(theirs.pvalue)
    assert split.holds == (theirs.pvalue >= 0.001)


def test_keys_are_counted_and_not_their_answers() -> None:
    """One busy key of B's would break the split if answers were draws."""
    _, answers, _ = traffic(1000, keys=400)
    busy = answers.assign(key=answers["key"].where(answers["arm"] == "champion", "k0"))
    honest, crowded = analysis.sample_ratio_check(answers, 0.3), analysis.sample_ratio_check(busy, 0.3)
    assert honest.unit == "keys"
    assert honest.a + honest.b == answers["key"].nunique()
    assert honest.holds
    assert crowded.b == 1
    assert crowded.holds is False
    assert analysis.sample_ratio_check(answers.drop(columns="key"), 0.3).unit == "answers"


def test_a_broken_split_comes_before_any_other_conclusion() -> None:
    pairs, answers, labels = traffic(skill_b=0.8)
    lost = answers[(answers["arm"] == "champion") | (answers.index % 4 == 0)].drop(columns="key")
    found = report(pairs, lost, labels)
    assert found.sample_ratio.holds is False
    assert found.conclusion.startswith("not valid: B has ")
    assert "BROKEN" in to_markdown(found)


def test_answers_that_a_gave_for_b_are_counted() -> None:
    _, answers, _ = traffic()
    first = answers.index[answers["arm"] == "challenger"][:7]
    gone = answers.index.isin(first)
    replaced = answers.assign(
        arm=answers["arm"].mask(gone, "champion"), propensity=answers["propensity"].mask(gone, 1.0)
    )
    assert analysis.sample_ratio_check(replaced, 0.3).replaced == 7


def test_each_slice_has_its_own_effect_and_all_hold_together() -> None:
    pairs, answers, labels = traffic(4000, skill_b=0.7)
    harmed = (pairs["origin"] == "JFK").to_numpy()
    worse = np.where(labels["label"] == 1, 0.35, 0.65)
    pairs["challenger_prediction"] = np.where(harmed, worse, pairs["champion_prediction"])
    found = {effect.value: effect for effect in report(pairs, answers, labels).slices}
    assert found["JFK"].finding == "B is worse"
    assert found["EWR"].finding == "no difference that matters"
    alone = analysis._effect(np.zeros(2000), POLICY, alpha=POLICY.alpha, key=("origin", "EWR"))
    assert found["EWR"].high > alone.high, "each of several intervals is wider than a single one"
    few = report(pairs.iloc[:400], answers.iloc[:400], labels.iloc[:400]).slices
    assert {effect.finding for effect in few} == {"too few labels"}


def test_what_the_luck_of_some_days_shows_is_no_conclusion() -> None:
    """B is far better on one day of seven, and a little worse on the others."""
    pairs, answers, labels = traffic(4200)
    lucky = np.arange(4200) < 600
    truth = labels["label"].to_numpy()
    pairs["challenger_prediction"] = np.where(lucky, np.where(truth == 1, 0.9, 0.1), pairs["champion_prediction"])
    policy = POLICY.model_copy(update={"block": timedelta(days=1)})
    found = report(pairs, answers, labels, policy=policy)
    assert found.effect.finding == "B is better"
    assert found.by_block is not None
    assert (found.by_block.blocks, found.by_block.finding) == (7, "not told apart")
    assert found.conclusion.startswith("not from day to day yet (not told apart)")
    assert "each of 7 days counted once" in to_markdown(found)
    pairs["challenger_prediction"] = np.where(truth == 1, 0.9, 0.1)
    steady = report(pairs, answers, labels, policy=policy)
    assert steady.conclusion.startswith("B is better")
    few = report(pairs.iloc[:1200], answers, labels, policy=policy).by_block
    assert few is not None
    assert few.finding == "too few blocks"


def test_power_says_what_the_labels_show_and_how_many_more_it_takes() -> None:
    pairs, answers, labels = traffic(1000)
    found = report(pairs, answers, labels).power
    assert found.detectable is not None
    assert found.detectable > POLICY.margin
    assert found.still_needed is not None
    assert found.needed == found.still_needed + 1000
    assert found.sd is not None
    assert found.needed is not None
    differences = np.random.default_rng(0).choice([-found.sd, found.sd], found.needed)
    enough = analysis.power(differences, POLICY)
    assert enough.detectable == pytest.approx(POLICY.margin, rel=0.05)
    assert analysis.power(np.zeros(10), POLICY).needed is None


@pytest.mark.parametrize("rows", [0, 1])
def test_with_nothing_seen_there_is_a_report_all_the_same(rows: int) -> None:
    pairs, answers, labels = (frame.iloc[:rows] for frame in traffic(10))
    found = report(pairs, answers, labels.iloc[:0])
    assert found.conclusion == "no label has arrived yet"
    assert (found.effect.low, found.effect.high) == (-1, 1)
    assert Report.model_validate_json(found.model_dump_json()) == found
    assert "nan" not in to_markdown(found).lower()
    assert all(np.isfinite(value) for value in measures(found).values())


def test_what_would_harm_users_breaks_a_guardrail_but_answering_differently_does_not() -> None:
    pairs, answers, labels = traffic()
    assert report(pairs, answers, labels).broken == ()
    different = pairs.assign(challenger_prediction=pairs["challenger_prediction"].where(pairs["by_challenger"], 0.9))
    assert report(different, answers, labels).broken == ()
    failing = pairs.assign(error=pd.Series(["KeyError: 'HA'"] * 3, dtype=object).reindex(pairs.index))
    assert "failed on 3" in report(failing, answers, labels).broken[0]
    assert "25 ms" in report(pairs.assign(challenger_us=25_000.0), answers, labels).broken[0]


def test_of_several_classes_each_release_may_know_its_own() -> None:
    rows, random = 600, np.random.default_rng(0)
    truth = random.choice(["low", "high"], rows)
    known = {A: ("low", "high"), B: ("high", "low", "never")}
    policy = RolloutPolicy(task="multiclass", classes=known)

    def shares(release: str, skill: float) -> Any:
        return [[skill if label == t else (1 - skill) / (len(known[release]) - 1) for label in known[release]]
                for t in truth]  # fmt: skip

    pairs, answers, labels = traffic(rows)
    pairs = pairs.assign(champion_probabilities=shares(A, 0.6), challenger_probabilities=shares(B, 0.8))
    by_b = (answers["arm"] == "challenger").tolist()
    answers["probabilities"] = [b if flag else a for flag, a, b in
                                zip(by_b, shares(A, 0.6), shares(B, 0.8), strict=True)]  # fmt: skip
    answers["predicted_label"] = truth
    labels["label"] = truth
    found = report(pairs, answers, labels, policy=policy, metric="accuracy")
    assert found.effect.finding == "B is better"
    assert found.a.metric.value == found.b.metric.value == 1


def test_the_markdown_says_which_interval_holds_for_what() -> None:
    found = report(*traffic(skill_b=0.8))
    text = to_markdown(found, {A: 3, B: 4})
    assert "A: version 3 (`aaaaaaaaaaaa`), B: version 4" in text
    assert "however often one looks" in text
    assert "fixed beforehand" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in tables} == {6}
    assert re.search(r"\d+ keys in A, \d+ in B, 30% chosen for B: holds", text)


@pytest.mark.parametrize(
    "change",
    [{"share": 0}, {"share": 1}, {"duration": "0d"}, {"duration": "soon"}, {"b": A}, {"name": "Two words"}, {"c": 1}],
    ids=str,
)
def test_a_plan_that_makes_no_sense_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ExperimentPlan.model_validate({"a": A, "b": B, **change})


def test_the_same_experiment_has_the_same_name_and_survives_the_ledger() -> None:
    assert (
        ExperimentPlan(a=A, b=B, duration=timedelta(days=7)).id
        == ExperimentPlan.model_validate({"a": A, "b": B, "duration": "168h"}).id
    )
    changes: list[dict[str, Any]] = [{}, {"share": 0.2}, {"duration": "8d"}, {"name": "x"}]
    assert len({ExperimentPlan.model_validate({"a": A, "b": B, **change}).id for change in changes}) == 4
    assert ExperimentPlan.model_validate(PLAN.model_dump(mode="json")) == PLAN
