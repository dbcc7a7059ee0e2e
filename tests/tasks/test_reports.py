"""Evidently's measures, where a decision hangs on them."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import reports
from trimtab.data.features import Feature

FEATURES = (Feature(name="x", kind="number"), Feature(name="c", kind="category"))


def _rows(count: int, *, shift: float = 0.0, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {"x": random.normal(shift, 1, count), "c": random.choice(["a", "b"], count), "prediction": random.random(count)}
    )


def _distances(before: pd.DataFrame, after: pd.DataFrame) -> dict[str, float]:
    return reports.drift_report(before, after, FEATURES, threshold=0.1, period="p").distances


def test_the_distance_of_a_shifted_number_is_its_shift_in_standard_deviations() -> None:
    assert _distances(_rows(5000), _rows(5000, shift=2.0, seed=1))["x"] == pytest.approx(2.0, abs=0.1)


def test_one_wild_value_in_the_reference_does_not_blind_the_measure() -> None:
    before = _rows(5000)
    before.loc[0, "x"] = 1e7
    assert _distances(before, _rows(5000, shift=2.0, seed=1))["x"] > 1.5


def test_more_rows_do_not_mean_more_drift() -> None:
    few = _distances(_rows(2000), _rows(2000, seed=1))
    many = _distances(_rows(20000), _rows(20000, seed=1))
    assert max(*few.values(), *many.values()) < 0.1


def test_a_column_that_is_missing_altogether_is_left_to_the_check_of_missing_values() -> None:
    after = _rows(1000, seed=1).assign(x=np.nan)
    assert set(_distances(_rows(1000), after)) == {"c"}


def test_the_page_is_a_page_and_the_distance_of_predictions_is_apart() -> None:
    found = reports.drift_report(_rows(500), _rows(500, seed=1), FEATURES, threshold=0.1, period="2013-03")
    assert found.prediction_distance is not None
    assert "prediction" not in found.distances
    assert found.html is not None
    assert found.html.lstrip().startswith("<")


def test_a_page_of_drift_that_cannot_be_drawn_costs_no_distance(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reports, "_html", lambda _run: list[str]()[len(FEATURES)])
    found = reports.drift_report(_rows(500), _rows(500, seed=1), FEATURES, threshold=0.1, period="p")
    assert found.html is None
    assert set(found.distances) == {"x", "c"}
    assert "page of drift is missing (IndexError" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("task", "truth", "prediction"),
    [
        ("binary", [0, 1, 0, 1] * 20, [0.2, 0.7, 0.4, 0.6] * 20),
        ("binary", [0] * 20, [0.2] * 20),
        ("multiclass", ["a", "b", "c", "a"] * 20, ["a", "b", "c", "b"] * 20),
        ("multiclass", ["yes", "no"] * 20, ["yes", "yes"] * 20),
        ("multiclass", ["a", "b"] * 20, ["a", "b"] * 20),
        ("multiclass", ["a"], ["a"]),
        ("regression", [1.0, 2.0, 3.0, 4.0] * 20, [1.1, 2.0, 2.9, 4.2] * 20),
        ("regression", [1.0], [1.1]),
    ],
    ids=["binary", "one class", "multiclass", "yes or no", "two of three", "one row", "regression", "one number"],
)
def test_every_task_has_its_performance_page(task: str, truth: list[object], prediction: list[object]) -> None:
    page = reports.performance_report(np.array(truth), np.array(prediction), task=task, period="p")
    assert "html" in page[:200].lower()


@settings(max_examples=15, deadline=None)
@given(st.data(), st.sampled_from([["a", "b"], ["yes", "no", "?"]]), st.integers(1, 6))
def test_the_champion_is_compared_whatever_labels_occur(data: st.DataObject, classes: list[str], rows: int) -> None:
    """Also when one side has two labels, which Evidently takes for a binary task, and the other has not."""
    truth, new, old = (data.draw(st.lists(st.sampled_from(classes), min_size=rows, max_size=rows)) for _ in range(3))
    page = reports.performance_report(truth, new, task="multiclass", period="p", reference=(truth, old))
    assert "html" in page[:200].lower()
