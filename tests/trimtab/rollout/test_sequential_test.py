"""Verdicts: error rates at most alpha, enough power, and a verdict that does not change with later labels."""

from __future__ import annotations

import json
import math
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.data.arrays import Floats, Mask
from trimtab.rollout import sequential_test
from trimtab.rollout.config import RolloutConfig
from trimtab.rollout.verdict import Verdict

seeds = st.integers(0, 2**32 - 1)
means = st.floats(-0.05, 0.05)
ALPHA = 0.05


def rules(**changes: Any) -> RolloutConfig:
    return RolloutConfig(**{"margin": 0.01, "min_labels": 50, "min_slice_labels": 30, **changes})


def stream(seed: int, size: int, mean: float, *, sd: float = 0.05) -> Floats:
    return np.clip(np.random.default_rng(seed).normal(mean, sd, size), -1, 1)


def parts(seed: int, size: int, *names: str) -> dict[tuple[str, str], Mask]:
    """Each row belongs to one of the values of *names*."""
    member = np.random.default_rng(seed).integers(0, len(names), size)
    return {("part", name): member == k for k, name in enumerate(names)}


def luck(rollouts: int, alpha: float = ALPHA) -> float:
    """What a true rate of *alpha* exceeds once in a thousand simulations."""
    return rollouts * alpha + 3.1 * math.sqrt(rollouts * alpha * (1 - alpha))


def decided(differences: Floats, asked: RolloutConfig, slices: dict[tuple[str, str], Mask] | None = None) -> str:
    """The outcome alone, which is cheaper than its evidence in words."""
    return sequential_test.decide(sequential_test.accumulate(differences, asked, slices), asked)[0]


def test_a_challenger_worse_by_the_margin_is_promoted_at_most_alpha_of_the_time() -> None:
    found = [decided(stream(seed, 2000, 0.01, sd=0.1), rules(min_labels=1)) for seed in range(300)]
    assert 0 < found.count("promote") <= luck(300)
    assert found.count("roll back") > 250


def test_a_challenger_without_a_difference_is_taken_back_at_most_alpha_of_the_time() -> None:
    found = [decided(stream(seed, 2000, 0.0, sd=0.1), rules(min_labels=1)) for seed in range(300)]
    assert 0 < found.count("roll back") <= luck(300)
    assert found.count("promote") > 250


def test_a_challenger_that_harms_one_slice_by_its_margin_is_promoted_at_most_alpha_of_the_time() -> None:
    asked, found = rules(slices={"part": 0.05}), []
    for seed in range(150):
        slices = parts(seed, 1000, "a", "b", "c", "d")
        found.append(decided(stream(seed, 1000, -0.01) + 0.06 * slices["part", "a"], asked, slices))
    assert found.count("promote") <= luck(150)
    assert found.count("roll back") > 30


@pytest.mark.parametrize(
    ("difference", "right"),
    [(-0.01, "promote"), (0.0, "promote"), (0.02, "roll back")],
    ids=["better", "equal", "worse"],
)
def test_a_verdict_needs_few_more_labels_than_a_test_that_looks_once(difference: float, right: str) -> None:
    """Four of five verdicts fall within 2.5 times the labels of a one-sided z-test with a power of 80 %."""
    asked, sd, found = rules(min_labels=1), 0.1, []
    for seed in range(60):
        outcome, labels = sequential_test.decide(
            sequential_test.accumulate(stream(seed, 4000, difference, sd=sd), asked), asked
        )
        found.append(labels if outcome == right else math.inf)
    distance = difference if right == "roll back" else asked.margin - difference
    quantiles = NormalDist().inv_cdf(1 - ALPHA) + NormalDist().inv_cdf(0.8)
    assert np.quantile(found, 0.8, method="higher") <= 2.5 * (quantiles * sd / distance) ** 2


def test_a_challenger_without_a_difference_is_promoted_with_slices_too() -> None:
    asked = rules(slices={"part": 0.05})
    found = [decided(stream(seed, 2000, 0.0, sd=0.1), asked, parts(seed, 2000, *"abcd")) for seed in range(60)]
    assert found.count("promote") > 50


def test_many_slices_do_not_take_back_a_challenger_without_a_difference() -> None:
    asked = rules(slices={"part": 0.001})
    found = [decided(stream(seed, 600, 0.0, sd=0.2), asked, parts(seed, 600, *"abcdefgh")) for seed in range(150)]
    assert found.count("roll back") <= luck(150)


@given(seed=seeds, mean=means, size=st.integers(0, 400), more=st.integers(1, 300))
@settings(max_examples=60, deadline=None)
def test_a_verdict_stays_whatever_comes_after_it(seed: int, mean: float, size: int, more: int) -> None:
    """So the verdict does not depend on when and how often it was computed."""
    differences = stream(seed, size, mean)
    asked = rules(slices={"part": 0.02})
    slices = parts(seed, size + more, "a", "b", "late")
    slices["part", "late"][:size] = False
    earlier = sequential_test.judge(differences, asked, slices={key: mask[:size] for key, mask in slices.items()})
    after = np.concatenate([differences, stream(seed + 1, more, -10 * mean)])
    later = sequential_test.judge(after, asked, slices=slices)
    if earlier.outcome != "keep collecting":
        assert (later.outcome, later.labels, later.overall) == (earlier.outcome, earlier.labels, earlier.overall)
        shuffled = after.copy()
        np.random.default_rng(seed).shuffle(shuffled[later.labels :])
        assert sequential_test.judge(shuffled, asked, slices=slices) == later
    elif later.outcome != "keep collecting":
        assert later.labels > size


@given(seed=seeds, mean=st.floats(-0.05, 0.01), kept=st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_another_slice_never_makes_a_promotion_easier(seed: int, mean: float, kept: int) -> None:
    differences, slices = stream(seed, 500, mean), parts(seed, 500, *"abcd")
    asked = rules(slices={"part": 0.03})
    fewer = sequential_test.judge(differences, asked, slices=dict(list(slices.items())[:kept]))
    more = sequential_test.judge(differences, asked, slices=slices)
    if more.outcome == "promote":
        assert fewer.outcome == "roll back" or fewer.labels <= more.labels


@given(seed=seeds, mean=means)
@settings(max_examples=40, deadline=None)
def test_a_verdict_has_the_evidence_that_it_needs(seed: int, mean: float) -> None:
    found = sequential_test.judge(stream(seed, 600, mean), rules())
    assert (found.outcome == "promote") == (found.overall.finding == "not worse")
    assert (found.outcome == "roll back") == (found.overall.finding == "worse")
    if found.outcome == "promote":
        assert found.overall.not_worse >= found.overall.not_worse_needs
        assert found.overall.low < found.overall.margin
    if found.outcome == "roll back":
        assert found.overall.worse >= found.overall.worse_needs
        assert found.overall.high > 0


def test_nothing_is_decided_before_the_labels_that_are_asked_for() -> None:
    terrible = np.full(99, 0.9)
    asked = rules(min_labels=100)
    found = sequential_test.judge(terrible, asked)
    assert (found.outcome, found.labels) == ("keep collecting", 99)
    assert found.reason.startswith("99 of the 100 labels that are asked for")
    assert sequential_test.judge(np.append(terrible, 0.9), asked).outcome == "roll back"


def test_both_shown_before_it_may_be_decided_is_a_rollback() -> None:
    """First much better, then much worse, before the labels that are asked for are there."""
    differences = np.concatenate([np.full(1000, -0.01), np.full(200, 0.5)])
    found = sequential_test.judge(differences, rules(min_labels=1200))
    assert found.overall.not_worse > found.overall.not_worse_needs
    assert found.outcome == "roll back"
    assert found.overall.finding == "worse"


def test_what_is_shown_first_counts() -> None:
    differences = np.concatenate([np.full(1000, -0.01), np.full(200, 0.5)])
    found = sequential_test.judge(differences, rules())
    assert found.outcome == "promote"
    assert found.labels < 1000
    assert sequential_test.judge(differences[::-1], rules()).outcome == "roll back"


def test_labels_that_say_nothing_are_left_out() -> None:
    differences = stream(1, 500, 0.0)
    holes = np.insert(differences, [0, 10, 400, 500], np.nan)
    slices = parts(1, 500, "a", "b")
    wider = {key: np.insert(mask, [0, 10, 400, 500], True) for key, mask in slices.items()}
    asked = rules(slices={"part": 0.05})
    assert sequential_test.judge(holes, asked, slices=wider) == sequential_test.judge(differences, asked, slices=slices)


def test_numbers_that_are_no_differences_of_losses_are_refused() -> None:
    with pytest.raises(ValueError, match="between -1 and 1"):
        sequential_test.judge(np.array([0.1, 1.2]), rules())


def test_a_slice_without_a_margin_is_refused() -> None:
    with pytest.raises(ValueError, match=r"carrier has no margin: rollout\.slices names part"):
        sequential_test.judge(
            stream(1, 9, 0.0), rules(slices={"part": 0.1}), slices={("carrier", "UA"): np.ones(9, bool)}
        )


def harmful(size: int = 4000) -> tuple[Floats, dict[tuple[str, str], Mask]]:
    slices = parts(2, size, "a", "b", "c", "d")
    return stream(2, size, -0.02) + 0.09 * slices["part", "c"], slices


def test_a_challenger_better_overall_but_worse_in_one_slice_is_taken_back() -> None:
    differences, slices = harmful()
    assert sequential_test.judge(differences, rules()).outcome == "promote", "without slices nobody would know"
    found = sequential_test.judge(differences, rules(slices={"part": 0.02}), slices=slices)
    assert found.outcome == "roll back"
    assert found.reason.startswith("worse where part is c by more than the margin of 0.02: over ")
    assert {e.value: e.finding for e in found.slices}["c"] == "worse"


def test_a_promotion_waits_for_the_slices_that_get_labels() -> None:
    """The overall evidence suffices long before that of the slice does."""
    size = 4000
    slices = parts(3, size, *"abcdefgh")
    differences = stream(3, size, -0.01)
    alone = sequential_test.judge(differences, rules(min_slice_labels=300))
    asked = rules(min_slice_labels=300, slices={"part": 0.02})
    before = sequential_test.judge(
        differences[: alone.labels], asked, slices={k: m[: alone.labels] for k, m in slices.items()}
    )
    assert before.outcome == "keep collecting"
    assert before.reason.startswith("neither shown worse nor shown not worse where part is")
    found = sequential_test.judge(differences, asked, slices=slices)
    assert found.outcome == "promote"
    assert found.labels > alone.labels
    assert {e.finding for e in found.slices} == {"not worse"}


def test_a_promotion_does_not_wait_for_a_value_that_hardly_occurs() -> None:
    size = 4000
    rare = np.arange(size) % 200 == 0
    slices = {("part", "often"): ~rare, ("part", "rare"): rare}
    found = sequential_test.judge(stream(4, size, -0.01), rules(slices={"part": 0.02}), slices=slices)
    assert found.outcome == "promote"
    assert found.reason.endswith("too few labels to tell where part is rare")
    assert {e.value: e.finding for e in found.slices} == {"often": "not worse", "rare": "too few labels to tell"}


def test_a_value_that_turns_up_late_takes_nothing_from_the_evidence_of_the_others() -> None:
    slices = parts(5, 600, "a", "b")
    late = np.zeros(600, bool)
    late[590:] = True
    asked = rules(slices={"part": 0.05})
    before = sequential_test.accumulate(stream(5, 600, 0.0), asked, slices)
    after = sequential_test.accumulate(stream(5, 600, 0.0), asked, {("part", "A: sorts first"): late, **slices})
    assert [p.alpha_worse for p in after[:3]] == [p.alpha_worse for p in before]
    assert after[3].key == ("part", "A: sorts first")


def test_all_tests_for_harm_together_spend_no_more_than_alpha() -> None:
    names = [str(k) for k in range(40)]
    asked = rules(slices={"part": 0.05})
    slices = parts(6, 4000, *names)
    rollout = sum(p.alpha_worse for p in sequential_test.accumulate(stream(6, 4000, 0.0), asked, slices))
    probation = sum(
        p.alpha_worse
        for p in sequential_test.accumulate(stream(6, 4000, 0.0), asked, slices, share=sequential_test.PROBATION_SHARE)
    )
    assert rollout + probation < asked.alpha
    assert sum(
        p.alpha_worse for p in sequential_test.accumulate(stream(6, 4000, 0.0), asked)
    ) == pytest.approx(asked.alpha * sequential_test.ROLLOUT_SHARE)  # fmt: skip


def test_probation_reverts_what_turns_out_worse_and_never_promotes() -> None:
    assert sequential_test.judge_after_promotion(stream(7, 3000, -0.05), rules()).outcome == "keep collecting"
    found = sequential_test.judge_after_promotion(stream(7, 3000, 0.02), rules())
    assert found.outcome == "roll back"
    assert found.labels < 500
    assert found.reason.startswith("worse: over ")
    assert sequential_test.judge_after_promotion(np.array([]), rules()).outcome == "keep collecting"


def test_probation_tests_slices_as_well() -> None:
    differences, slices = harmful()
    found = sequential_test.judge_after_promotion(differences, rules(slices={"part": 0.02}), slices=slices)
    assert found.outcome == "roll back"
    assert "where part is c" in found.reason


def test_probation_reverts_a_release_without_a_difference_at_most_alpha_of_the_time() -> None:
    found = [sequential_test.judge_after_promotion(stream(seed, 1500, 0.0), rules()).outcome for seed in range(200)]
    assert found.count("roll back") <= luck(200, ALPHA * sequential_test.PROBATION_SHARE)


def test_probation_reverts_a_release_that_is_worse_by_the_margin() -> None:
    found = [sequential_test.judge_after_promotion(stream(seed, 1500, 0.01), rules()).outcome for seed in range(60)]
    assert found.count("roll back") > 55


@pytest.mark.parametrize("size", [0, 10, 3000])
def test_a_verdict_survives_json(size: int) -> None:
    differences, slices = harmful()
    found = sequential_test.judge(
        differences[:size], rules(slices={"part": 0.02}), slices={k: m[:size] for k, m in slices.items()}
    )
    assert Verdict.model_validate(json.loads(found.model_dump_json())) == found
