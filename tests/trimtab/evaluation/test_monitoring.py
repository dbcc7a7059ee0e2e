"""Monitoring decisions: equal facts give equal decisions, and a retrain needs a cause."""

from __future__ import annotations

import json
import math
from typing import Any

import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trimtab.config.sections import MonitorConfig
from trimtab.data.features import Feature
from trimtab.evaluation import monitoring
from trimtab.evaluation.monitoring import Facts, PeriodFinding, Quality

RULES = MonitorConfig.model_validate({"persist": "1 of 1", "cooldown": 0})
CALM = Facts(
    period="2013-05", release="r1", rows=5000, distances={"a": 0.01, "b": 0.02}, importances={"a": 0.9, "b": 0.1},
    prediction_distance=0.05, null_gain={"a": 0.0}, unseen={"b": 0.0},
    quality=Quality(metric="roc_auc", live=0.70, promised=0.70, labels=4000),
)  # fmt: skip
MOVED = CALM.model_copy(update={"distances": {"a": 0.5, "b": 0.02}})
WORSE = CALM.model_copy(update={"quality": Quality(metric="roc_auc", live=0.60, promised=0.70, labels=4000)})
BROKEN = MOVED.model_copy(update={"null_gain": {"a": 0.5}})

shares = st.floats(0, 1)
names = st.sampled_from(["a", "b", "c"])
qualities = st.none() | st.builds(
    Quality, metric=st.sampled_from(["roc_auc", "rmse"]), live=st.floats(0, 5), promised=st.floats(0, 5),
    labels=st.integers(0, 2000),
)  # fmt: skip
facts_ = st.builds(
    Facts, period=st.just("2013-05"), release=st.just("r1"), rows=st.integers(0, 10**6),
    distances=st.dictionaries(names, st.floats(0, 3) | st.just(math.nan)), importances=st.dictionaries(names, shares),
    prediction_distance=st.none() | st.floats(0, 2), null_gain=st.dictionaries(names, st.floats(-1, 1)),
    unseen=st.dictionaries(names, shares), is_constant=st.booleans(), quality=qualities,
)  # fmt: skip
rules_ = st.builds(
    lambda n, k, cooldown: MonitorConfig.model_validate({"persist": f"{min(k, n)} of {n}", "cooldown": cooldown}),
    st.integers(1, 4), st.integers(1, 4), st.integers(0, 3),
)  # fmt: skip


def finding(period: str, *, violates: bool, release: str = "r1") -> PeriodFinding:
    return PeriodFinding(period=period, release=release, drift=("it moved",) if violates else ())


histories = st.lists(st.booleans(), max_size=4).map(
    lambda flags: [finding(f"2013-{i + 1:02d}", violates=v) for i, v in enumerate(flags)]
)


def action(facts: Facts, rules: MonitorConfig = RULES, **more: Any) -> str:
    return monitoring.decide(facts, rules, **more).action


@pytest.mark.parametrize(
    ("facts", "expected", "kind"),
    [
        (CALM, "none", "none"),
        (MOVED, "retrain", "drift"),
        (WORSE, "retrain", "quality"),
        (MOVED.model_copy(update={"quality": WORSE.quality}), "retrain", "drift and quality"),
        (BROKEN, "block", "data"),
        (CALM.model_copy(update={"unseen": {"b": 0.2}}), "block", "data"),
        (CALM.model_copy(update={"is_constant": True}), "block", "data"),
        (CALM.model_copy(update={"distances": {"a": 0.01, "b": 0.5}}), "watch", "none"),
        (CALM.model_copy(update={"prediction_distance": 0.5}), "retrain", "drift"),
    ],
    ids=["calm", "one that matters", "quality", "both", "nulls", "unseen", "constant", "of no weight", "predictions"],
)  # fmt: skip
def test_each_kind_of_trouble_asks_for_its_own(facts: Facts, expected: str, kind: str) -> None:
    decision = monitoring.decide(facts, RULES)
    assert (decision.action, decision.kind) == (expected, kind)
    assert decision.cause


@settings(deadline=None)
@given(facts_, rules_, histories, st.none() | st.integers(1, 5))
def test_a_retrain_needs_a_violation_now_and_k_of_n(
    facts: Facts, rules: MonitorConfig, earlier: list[PeriodFinding], since: int | None
) -> None:
    decision = monitoring.decide(facts, rules, earlier=earlier, periods_since_retrain=since)
    k, n = rules.persist
    times = decision.finding.violates + sum(f.violates for f in earlier[len(earlier) - (n - 1) :] if n > 1)
    if len(earlier) < n - 1:
        times = decision.finding.violates + sum(f.violates for f in earlier)
    cooling = since is not None and since <= rules.cooldown
    fit = facts.rows >= rules.min_rows and not decision.finding.broken
    assert (decision.action == "retrain") == (fit and decision.finding.violates and times >= k and not cooling)


@given(facts_, rules_, histories)
def test_broken_data_block_whatever_else_is_seen(
    facts: Facts, rules: MonitorConfig, earlier: list[PeriodFinding]
) -> None:
    broken = facts.model_copy(update={"null_gain": {"a": 0.9}, "rows": 200 + facts.rows})
    decision = monitoring.decide(broken, rules, earlier=earlier, earlier_requests=["earlier"])
    assert (decision.action, decision.kind) == ("block", "data")


@given(facts_, rules_, histories)
def test_too_few_rows_say_nothing(facts: Facts, rules: MonitorConfig, earlier: list[PeriodFinding]) -> None:
    few = facts.model_copy(update={"rows": rules.min_rows - 1})
    decision = monitoring.decide(few, rules, earlier=earlier)
    assert (decision.action, decision.kind) == ("none", "none")
    assert "too few to judge" in decision.cause


@given(facts_, rules_, histories, st.randoms())
def test_the_id_depends_on_facts_and_rules_only(
    facts: Facts, rules: MonitorConfig, earlier: list[PeriodFinding], random: Any
) -> None:
    shuffled = {}
    for field in ("distances", "importances", "null_gain", "unseen"):
        items = list(getattr(facts, field).items())
        random.shuffle(items)
        shuffled[field] = dict(items)
    one = monitoring.decide(facts, rules)
    other = monitoring.decide(
        facts.model_copy(update=shuffled), rules, earlier=earlier, periods_since_retrain=1, earlier_requests=["x"]
    )
    assert one.id == other.id
    assert one.id.startswith("2013-05-")
    again = monitoring.decide(facts.model_copy(update=shuffled), rules)
    assert (again.action, again.cause) == (one.action, one.cause)


@given(facts_, facts_, rules_, rules_)
def test_other_facts_or_other_rules_have_another_id(
    one: Facts, other: Facts, rules: MonitorConfig, others: MonitorConfig
) -> None:
    texts = [json.dumps(facts.model_dump(mode="json"), sort_keys=True) for facts in (one, other)]
    same_facts = texts[0] == texts[1]
    assert (monitoring.decision_id(one, rules) == monitoring.decision_id(other, rules)) == same_facts
    assert (monitoring.decision_id(one, rules) == monitoring.decision_id(one, others)) == (rules == others)


@given(facts_)
def test_a_decision_survives_its_trip_through_json(facts: Facts) -> None:
    """It is kept as JSON in the ledger, where PostgreSQL takes no nan, and read again by the next period."""
    decision = monitoring.decide(facts, RULES)
    text = json.dumps(decision.model_dump(mode="json"), allow_nan=False)
    assert PeriodFinding.model_validate(json.loads(text)["finding"]) == decision.finding
    assert monitoring.decision_id(Facts.model_validate(json.loads(text)["facts"]), RULES) == decision.id


@given(facts_, rules_, histories, st.integers(1, 1000))
def test_more_rows_with_the_same_distances_change_nothing(
    facts: Facts, rules: MonitorConfig, earlier: list[PeriodFinding], factor: int
) -> None:
    assume(facts.rows >= rules.min_rows)
    more = facts.model_copy(update={"rows": facts.rows * factor})
    assert action(more, rules, earlier=earlier) == action(facts, rules, earlier=earlier)


def test_the_newest_period_has_to_violate_itself() -> None:
    two_of_three = MonitorConfig.model_validate({"persist": "2 of 3", "cooldown": 0})
    loud = [finding("2013-03", violates=True), finding("2013-04", violates=True)]
    assert action(CALM, two_of_three, earlier=loud) == "none"
    assert action(MOVED, two_of_three, earlier=loud) == "retrain"
    assert action(MOVED, two_of_three) == "watch"
    assert action(MOVED, two_of_three, earlier=[loud[0], finding("2013-04", violates=False)]) == "retrain"
    old = [finding("2013-02", violates=True), finding("2013-03", violates=False), finding("2013-04", violates=False)]
    assert action(MOVED, two_of_three, earlier=old) == "watch"


def test_what_another_release_did_or_what_came_later_does_not_count() -> None:
    two_of_two = MonitorConfig.model_validate({"persist": "2 of 2", "cooldown": 0})
    assert action(MOVED, two_of_two, earlier=[finding("2013-04", violates=True, release="r0")]) == "watch"
    assert action(MOVED, two_of_two, earlier=[finding("2013-06", violates=True)]) == "watch"
    assert action(MOVED, two_of_two, earlier=[finding("2013-04", violates=True)]) == "retrain"


@pytest.mark.parametrize(
    ("cooldown", "since", "expected"), [(0, 1, "retrain"), (1, 1, "watch"), (1, 2, "retrain"), (3, None, "retrain")]
)
def test_after_a_retrain_there_is_rest(cooldown: int, since: int | None, expected: str) -> None:
    rules = RULES.model_copy(update={"cooldown": cooldown})
    assert action(MOVED, rules, periods_since_retrain=since) == expected


def test_a_retrain_is_not_asked_for_again_because_more_labels_came() -> None:
    first = monitoring.decide(MOVED, RULES)
    later = MOVED.model_copy(update={"quality": WORSE.quality})
    assert action(later, earlier_requests=[first.id]) == "watch"
    assert action(MOVED, earlier_requests=[first.id]) == "retrain"
    assert first.id in monitoring.decide(later, RULES, earlier_requests=[first.id]).cause


def test_a_column_without_weight_may_move_as_it_likes() -> None:
    weather = CALM.model_copy(update={"distances": {"a": 0.05, "b": 1e6}, "importances": {"a": 1.0, "b": 0.0}})
    assert weather.impact() == pytest.approx(0.05)
    assert action(weather) == "watch"


def test_a_distance_that_could_not_be_measured_hides_no_other() -> None:
    holed = Facts(
        period="2013-05", release="r1", rows=5000, distances={"b": math.nan, "a": 0.5}, importances={"a": 0.9, "b": 0.1}
    )
    assert holed.impact() == pytest.approx(0.45)
    assert action(holed) == "retrain"


def test_many_small_moves_are_named_though_no_column_drifted_by_itself() -> None:
    rules = MonitorConfig.model_validate({"persist": "1 of 1", "drift": {"threshold": 0.5, "impact": 0.1}})
    decision = monitoring.decide(CALM.model_copy(update={"distances": {"a": 0.2, "b": 0.2}}), rules)
    assert decision.action == "retrain"
    assert decision.cause.endswith("most in a, b")


def test_quality_counts_only_with_enough_labels_and_in_its_own_direction() -> None:
    def of(metric: str, live: float, labels: int = 4000) -> Facts:
        return CALM.model_copy(update={"quality": Quality(metric=metric, live=live, promised=0.7, labels=labels)})

    assert action(of("roc_auc", 0.6, labels=499)) == "none"
    assert action(of("roc_auc", 0.8)) == "none"
    assert action(of("rmse", 0.8)) == "retrain"
    assert action(of("rmse", 0.6)) == "none"


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.none() | st.sampled_from("xyz"), min_size=1, max_size=30),
    st.lists(st.none() | st.sampled_from("xyzw"), min_size=1, max_size=30),
)
def test_missing_values_and_unseen_categories_are_counted(before: list[Any], now: list[Any]) -> None:
    reference, current = (
        pd.DataFrame(
            {"place": pd.Series(values, dtype="str"), "size": [math.nan if v is None else 1.0 for v in values]}
        )
        for values in (before, now)
    )
    features = [Feature(name="size", kind="number"), Feature(name="place", kind="category")]
    gained, unseen = monitoring.missing_and_unseen(reference, current, features, {"place": set(before) - {None}})
    expected = now.count(None) / len(now) - before.count(None) / len(before)
    assert gained == {"size": pytest.approx(expected), "place": pytest.approx(expected)}
    share = sum(v is not None and v not in before for v in now) / len(now)
    assert unseen == ({"place": pytest.approx(share)} if set(before) != {None} else {})


def test_a_category_that_the_model_ignores_does_not_block_when_it_has_values_again() -> None:
    feature = Feature(name="place", kind="category")
    reference = pd.DataFrame({"place": pd.Series([None] * 5, dtype="str")})
    gained, unseen = monitoring.missing_and_unseen(
        reference, pd.DataFrame({"place": ["here"] * 5}), [feature], {"place": []}
    )
    assert action(CALM.model_copy(update={"null_gain": gained, "unseen": unseen})) == "none"


@pytest.mark.parametrize(
    ("metric", "promised", "live", "drop"),
    [("rmse", 13641.0, 13653.0, 12 / 13641), ("rmse", 2.0, 3.0, 0.5), ("rmse", 0.0, 0.0, 0.0),
     ("log_loss", 0.5, 0.55, 0.1), ("roc_auc", 0.7, 0.6, 0.1), ("r2", 0.5, 0.6, -0.1)],
)  # fmt: skip
def test_a_drop_has_no_unit(metric: str, promised: float, live: float, drop: float) -> None:
    assert Quality(metric=metric, live=live, promised=promised, labels=900).drop == pytest.approx(drop)


def test_a_level_that_a_sample_lacks_was_met_all_the_same() -> None:
    known = [f"l{i}" for i in range(10_000)]
    sample = pd.DataFrame({"place": pd.Series(known[:100], dtype="str")})
    _, unseen = monitoring.missing_and_unseen(
        sample, pd.DataFrame({"place": [*known, "new"]}), [Feature(name="place", kind="category")], {"place": known}
    )
    assert unseen == {"place": pytest.approx(1 / 10_001)}
