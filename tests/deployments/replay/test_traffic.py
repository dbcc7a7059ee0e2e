"""What a replay sends is what training reads, and a replay that stopped goes on."""

from __future__ import annotations

import io
from typing import Any

import orjson
import pandas as pd
import pytest

from deployments.replay.traffic import Traffic
from tasks.table_files import read_table
from tests.trimtab.sample_rows import params
from trimtab.config.params import Params
from trimtab.data.features import describe, frame
from trimtab.data.periods import Period
from trimtab.data.schema import infer_schema, typed_rows, validate_batch
from trimtab.data.types import Columns
from trimtab.requests.parser import RowParser

MARCH = Period.parse("2013-03", "month")


def project(**csv: Any) -> Params:
    return params(
        source={"target": "{period}.csv", "csv": csv},
        columns={
            "target": "late",
            "time": "at",
            "id": "row",
            "key": "who",
            "number": ["strong"],
            "category": ["place"],
        },
        validate={"max_bad_share": 0.5},
    )


@pytest.mark.parametrize(
    "text",
    [
        "row,at,late,who,strong,place\n01,2013-03-04 05:00,1,7,1.5,10\n02,2013-03-05T06:00:00,0,,,11\n",
        "row,at,late,who,strong,place\na,2013-03-04T05:00:00+02:00,1,NA,1,NA\nb,2013-03-05T06:00:00Z,0,x,2,DE\n",
        "row,at,late,who,strong,place\n9007199254740993,2013-03-04,1,7,-1e3,true\n2,2013-03-05,0,8,4,\n",
    ],
    ids=["codes and text dates", "zones and Namibia", "long ids"],
)
def test_every_accepted_row_is_read_by_the_server_as_training_reads_it(text: str) -> None:
    conf = project()
    raw = read_table(io.BytesIO(text.encode()), "2013-03.csv", conf, MARCH)
    rules = infer_schema(raw, conf)
    good = validate_batch(raw, rules, conf, MARCH).good
    assert len(good) == 2, "a schema accepts the batch that it was inferred from"
    features = describe(good, number=conf.columns.number, category=conf.columns.category)
    parser = RowParser(features, Columns(time="at", id="row", key="who", target="late"))
    (body,) = Traffic("http://127.0.0.1", conf.columns)._bodies(typed_rows(raw, rules, conf))
    sent = parser.read_columns(orjson.loads(body)["columns"], now_us=0)
    pd.testing.assert_frame_equal(sent.frame(), frame(good, features))
    assert sent.recorded["row"] == good["row"].tolist()
    assert (sent.time_us == good["at"].astype("int64").to_numpy()).all()


def test_a_replay_that_stopped_asks_for_no_row_again_and_delivers_its_labels() -> None:
    traffic = Traffic("http://127.0.0.1", project().columns)
    rows = pd.DataFrame(
        {"row": ["a", "b", "c"], "at": pd.to_datetime(["2013-03-01"] * 3), "late": [1.0, 0.0, 1.0], "strong": 1.0}
    )
    recorded = pd.DataFrame({"prediction_id": ["p1", "p2"], "row": ["a", "b"], "label": [1, None]})
    assert traffic.resume(recorded, rows)["row"].tolist() == ["c"]
    assert traffic.open[["prediction_id", "label"]].values.tolist() == [["p2", 0.0]]
    untouched = Traffic("http://127.0.0.1", project().columns)
    assert untouched.resume(pd.DataFrame({"prediction_id": [], "label": []}), rows).equals(rows)
