"""Roles, periods and suspects of whole tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from trimtab.profile import findings
from trimtab.profile.calendar import design_effect, profile_calendar
from trimtab.profile.leaks import find_filled_later, find_leaks
from trimtab.profile.table import Asked, TableError, profile_table
from trimtab.profile.targets import TargetError

SIZE = 4000


def parcels(**more: Any) -> pd.DataFrame:
    """A year of parcels, as texts of a CSV."""
    random = np.random.default_rng(0)
    days = np.sort(random.uniform(0, 365, SIZE))
    sent = pd.Timestamp("2023-01-01") + pd.to_timedelta(days, unit="D")
    km = random.gamma(2, 150, SIZE)
    late = random.random(SIZE) < 1 / (1 + np.exp(2.5 - 0.005 * km))
    frame = pd.DataFrame(
        {
            "parcel": [f"p{i:05}" for i in range(SIZE)],
            "sent_at": sent.strftime("%Y-%m-%d %H:%M"),
            "customer_id": random.integers(0, 500, SIZE).astype(str),
            "km": km.round(1).astype(str),
            "carrier": random.choice(["red", "green"], SIZE),
            "late": np.where(late, "late", "on time"),
        }
    )
    return frame.assign(**{name: values(frame) for name, values in more.items()})


def looked(frame: pd.DataFrame, **asked: Any) -> Any:
    return profile_table(frame, Asked(**{"target": "late", **asked}))


def test_each_column_gets_its_role() -> None:
    found = looked(parcels())
    assert (found.time.columns, found.id, found.key) == (("sent_at",), "parcel", "customer_id")
    assert (found.numbers, found.categories) == (("km",), ("carrier",))
    assert (found.target.task, found.target.negative, found.target.positive) == ("binary", "on time", "late")
    assert found.calendar.every == "month" or found.calendar.rows_per_period >= 1000


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("copy", lambda f: (f["late"] == "late").astype(int).astype(str)),
        ("hash", lambda f: f["late"].map({"late": "a1b2", "on time": "c3d4"})),
        ("refund", lambda f: np.where(f["late"] == "late", "5.0", "")),
    ],
    ids=["a copy", "a hash", "filled for one class"],
)
def test_a_planted_leak_is_named_and_left_out(name: str, values: Any) -> None:
    found = looked(parcels(**{name: values}))
    assert "ROC AUC 1.000" in found.left_out[name]
    assert name not in (*found.numbers, *found.categories)


def test_a_good_feature_is_no_leak() -> None:
    assert not [why for why in looked(parcels()).left_out.values() if "give the target away" in why]


def test_a_column_that_is_filled_as_rows_grow_old_is_named() -> None:
    rows = parcels(rating=lambda f: np.where(np.arange(SIZE) < SIZE * 0.93, "4", ""))
    rows["rating"] = np.where(np.arange(SIZE) % 7 == 0, rows["rating"].replace("4", "3"), rows["rating"])
    assert "newest tenth" in looked(rows).left_out["rating"]


def test_a_later_time_gives_the_delay_of_the_label() -> None:
    def delivered(frame: pd.DataFrame) -> Any:
        return (pd.to_datetime(frame["sent_at"]) + pd.Timedelta("3d")).dt.strftime("%Y-%m-%d %H:%M")

    found = looked(parcels(delivered_at=delivered))
    assert found.time.columns == ("sent_at",) and found.label_delay.days == 3
    assert "after the row's own" in found.left_out["delivered_at"]


def test_years_months_and_days_make_one_time() -> None:
    times = pd.to_datetime(parcels()["sent_at"])
    frame = (
        parcels()
        .drop(columns="sent_at")
        .assign(year=times.dt.year.astype(str), month=times.dt.month.astype(str), day=times.dt.day.astype(str))
    )
    assert looked(frame).time.columns == ("year", "month", "day")


def test_without_unique_values_the_id_is_made() -> None:
    found = looked(parcels().drop(columns="parcel"))
    assert found.id is None


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"target": "nothing"}, "there is no column nothing"),
        ({"time": "km"}, "km holds no times"),
        ({"id": "carrier"}, "carrier is not an id"),
        ({"every": "hour"}, None),
    ],
)
def test_what_was_said_is_checked(asked: dict[str, str], says: str | None) -> None:
    if says is None:
        assert looked(parcels(), **asked).calendar.every == "hour"
    else:
        with pytest.raises(TableError, match=says):
            looked(parcels(), **asked)


def test_a_table_without_times_or_with_an_impossible_target_says_so() -> None:
    with pytest.raises(TableError, match="no column says when"):
        looked(parcels().drop(columns="sent_at"))
    with pytest.raises(TargetError, match="cannot be the target"):
        looked(parcels(), target="parcel")


def test_the_findings_fit_a_terminal_and_their_yaml_is_read() -> None:
    found = looked(parcels())
    text = findings.format_findings(found, SIZE, None)
    assert max(map(len, text.splitlines())) <= findings.WIDTH
    sections = yaml.safe_load(text[text.index("# params.yaml") :])
    assert sections["columns"]["number"] == ["km"] and sections["project"]["positive"] == "late"
    assert findings.as_json(found, SIZE, None)["params"]["columns"] == sections["columns"]


@pytest.mark.parametrize(
    ("every", "rows", "chosen"), [("h", 9000, "hour"), ("D", 4000, "year"), ("MS", 400, "year"), ("YS", 50, "year")]
)
def test_periods_are_as_short_as_the_rows_allow(every: str, rows: int, chosen: str) -> None:
    times = pd.Series(pd.date_range("1990-01-01", periods=rows, freq=every))
    found = profile_calendar(times)
    assert found.periods >= 6
    if every != "h":
        assert found.every == chosen
    with pytest.raises(ValueError, match="impossible"):
        profile_calendar(pd.Series(pd.date_range("1990-01-01", periods=50, freq="YS")), every="day")


def test_days_that_share_a_label_have_a_design_effect() -> None:
    random = np.random.default_rng(0)
    days = np.repeat(np.arange(100), 50)
    times = pd.Series(pd.Timestamp("2023-01-01") + pd.to_timedelta(days, unit="D"))
    alone = pd.Series(random.random(5000))
    shared = pd.Series(random.normal(size=100)[days] + random.normal(size=5000))
    assert design_effect(alone, times) < 1.5
    assert design_effect(shared, times) > 10


def test_a_leak_is_one_on_later_rows_only() -> None:
    """A column that fits the past by its many levels alone predicts nothing."""
    random = np.random.default_rng(0)
    target = pd.Series((random.random(3000) < 0.5).astype(float))
    features = pd.DataFrame({"name": [f"n{i}" for i in range(3000)], "noise": random.random(3000)})
    assert find_leaks(features, target, "binary") == []
    assert find_filled_later(features) == []
    numbers = pd.Series(random.normal(size=3000))
    assert [s.column for s in find_leaks(pd.DataFrame({"twice": numbers * 2}), numbers, "regression")] == ["twice"]
