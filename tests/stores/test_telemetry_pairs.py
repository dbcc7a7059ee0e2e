"""Pairs: what both models said of the same rows, as evidence that may be lost but never lies."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from stores import telemetry
from stores.telemetry import Recorder, compact

MARCH = datetime(2013, 3, 1, tzinfo=UTC)


def pair(
    recorder: Recorder, size: int = 2, *, rollout: str = "f1", received_us: int | None = None, **more: Any
) -> bool:
    """One call to both models, with *size* rows."""
    times = [round((MARCH + timedelta(minutes=i)).timestamp() * 1e6) for i in range(size)]
    given = {
        "rollout": rollout,
        "champion": "a" * 64,
        "challenger": "b" * 64,
        "received_us": time.time_ns() // 1000 if received_us is None else received_us,
        "ids": recorder.take_ids(times),
        "times_us": times,
        "by_challenger": [i % 2 == 1 for i in range(size)],
        "champion_prediction": np.linspace(0, 1, size),
        "challenger_prediction": np.linspace(0.5, 1, size),
        "slices": {"carrier": ["UA", None] * (size // 2)},
        "champion_us": 50.0,
        "challenger_us": 70.0,
    }
    return recorder.pairs(**{**given, **more})


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path)


@pytest.mark.parametrize("compacted", [False, True], ids=["journal", "parquet"])
def test_a_pair_says_what_both_models_said(recorder: Recorder, *, compacted: bool) -> None:
    ids = recorder.take_ids([0, 1])
    nothing = np.array([0.25, np.nan])
    assert pair(recorder, ids=ids, errors=[None, "ValueError: no"], challenger_prediction=nothing, received_us=7)
    if compacted:
        recorder.roll()
        assert compact(recorder.root) == 1
    found = telemetry.pairs(recorder.root)
    assert found["prediction_id"].tolist() == ids
    assert found["time"].tolist() == [MARCH, MARCH + timedelta(minutes=1)]
    assert found["received_at"].tolist() == [pd.Timestamp(7, unit="us", tz="UTC")] * 2
    assert found["by_challenger"].tolist() == [False, True]
    assert found["champion_prediction"].tolist() == [0, 1]
    assert found["challenger_prediction"].fillna(-1).tolist() == [0.25, -1]
    assert found["error"].fillna("").tolist() == ["", "ValueError: no"]
    assert found["carrier"].fillna("").tolist() == ["UA", ""]
    shared = ["rollout", "champion", "challenger", "champion_us", "challenger_us", "rows_in_call"]
    assert found[shared].drop_duplicates().values.tolist() == [["f1", "a" * 64, "b" * 64, 50.0, 70.0, 2]]
