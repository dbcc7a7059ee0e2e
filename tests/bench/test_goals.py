from __future__ import annotations

from typing import Any

import pytest

from bench.serving.goals import goals, table


def _point(rps: float, p50_ms: float = 0.5, p99_ms: float = 1.0, **more: Any) -> dict[str, Any]:
    return {"rps": rps, "p50_ms": p50_ms, "p99_ms": p99_ms, **more}


def _all(rps: float) -> dict[str, Any]:
    return {connections: _point(rps) for connections in ("1", "16", "64")}


MET: dict[str, Any] = {
    "floor": _all(1000),
    "mlflow": _all(3.5),
    "bentoml": _all(23),
    "trimtab": _all(351),
    "shadow": _all(235),
    "bulk": {"trimtab_rows_s": 80.0, "model_rows_s": 100.0, "rows": 10, "ways": {}},
}


def test_goals_that_are_just_reached_are_met() -> None:
    found = list(goals(MET))
    assert len(found) == 9
    assert all(goal.met for goal in found), [goal.name for goal in found if not goal.met]


@pytest.mark.parametrize(
    ("worse", "missed"),
    [
        ({"mlflow": _all(3.6)}, "MLflow"),
        ({"bentoml": _all(24)}, "BentoML"),
        ({"floor": {**_all(1000), "16": _point(1100)}}, "floor's requests/s at 16"),
        ({"floor": {**_all(1000), "64": _point(1100)}}, "floor's requests/s at 64"),
        ({"trimtab": {**_all(351), "1": _point(351, p50_ms=1.1)}}, "p50 at 1"),
        ({"trimtab": {**_all(351), "64": _point(351, p50_ms=1, p99_ms=5.1)}}, "p99"),
        ({"bulk": {**MET["bulk"], "trimtab_rows_s": 79.0}}, "rows/s"),
        ({"shadow": {**_all(235), "64": _point(233)}}, "shadow at 64"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_goal_that_is_not_reached_is_said_to_be_missed(worse: dict[str, Any], missed: str) -> None:
    found = [goal.name for goal in goals({**MET, **worse}) if not goal.met]
    assert len(found) == 1
    assert missed in found[0]
    assert sum("**missed**" in line for line in table({**MET, **worse})) == 1


def test_what_was_not_measured_is_no_goal_reached() -> None:
    assert list(goals({"floor": _all(1000)})) == []
    assert {goal.name for goal in goals({"trimtab": _all(1)})} == {"p50 at 1", "p99 of p50 at 64"}


def test_a_doubtful_number_says_why() -> None:
    doubtful = {"trimtab": {**_all(351), "16": _point(351, refused=7, others_cpu=0.5)}}
    assert any("7 refused, others took 50% of a core" in line for line in table(doubtful))


def test_a_disturbed_run_says_that_its_verdicts_are_worth_little() -> None:
    disturbed = {**MET, "floor": {**_all(1000), "16": _point(1000, others_cpu=0.4)}}
    assert any("up to 40% of a core" in line for line in table(disturbed))
    assert not any("of a core" in line for line in table(MET))
