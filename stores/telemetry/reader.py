"""Reads telemetry from any process, without a server: everything recorded below *root* and everything shared in the
object store. Times select by data time, *since* by the time of arrival. Files outside the selection are not opened, so
a period or an open rollout costs the same however much is stored."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from stores.telemetry.parquet.schema import SLICE
from stores.telemetry.query import EVER, Selection
from stores.telemetry.remote.replica import TelemetryLocation
from stores.telemetry.wal import streams
from trimtab.data.labels import LabelRule, only_readable

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

log = logging.getLogger("trimtab.telemetry")
When = datetime | str | None
_SECOND = 1_000_000
_PREDICTION_COLUMNS = ("prediction_id", "time", "received_at", "release", "arm", "rollout", "propensity", "prediction")
_LABEL_COLUMNS = ("prediction_id", "label", "label_time", "received_at")
_PAIR_COLUMNS = (
    *("prediction_id", "time", "received_at", "rollout", "champion", "challenger", "by_challenger"),
    *("champion_prediction", "challenger_prediction", "error", "champion_us", "challenger_us", "rows_in_call"),
)
PROBABILITIES = frozenset({"champion_probabilities", "challenger_probabilities"})
PAIR_COLUMNS = PROBABILITIES | {*_PAIR_COLUMNS}


@dataclass(frozen=True)
class LabelShare:
    """Labels by what they are: *rows* that arrived, *distinct* predictions they name, *conflicts* among these (more
    than one value; the last to arrive counts)."""

    rows: int
    distinct: int
    conflicts: int


def predictions(
    root: TelemetryLocation, start: When = None, end: When = None, *, columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """Predictions with a data time in ``[start, end)``, ordered by time and id; every one exactly once.

    Columns: prediction_id, time, received_at (both UTC), release (digest), arm, rollout (or missing), propensity,
    prediction (probability of the positive class, of the chosen label, or the value), for multiclass predicted_label
    and probabilities (in the order of the release's classes), the id and key columns that were sent, and every
    feature. *columns* selects some of these; prediction_id and time are always there. Times without an offset are UTC.
    """
    wanted = None if columns is None else list(dict.fromkeys(["prediction_id", "time", *columns]))
    table = Selection(root, streams.PREDICTIONS, _span(start, end), columns=wanted).read()
    if table is None:
        return _empty(wanted or _PREDICTION_COLUMNS)
    return _frame(_sorted(table, "time"))


def pairs(root: TelemetryLocation, *, rollout: str | None = None, since: datetime | None = None) -> pd.DataFrame:
    """Rows that champion and challenger both scored, ordered by arrival and id; of *rollout*, if one is named.

    Columns: prediction_id, time, received_at (UTC), rollout, champion, challenger (digests; these three categorical,
    as there are few), by_challenger (whose prediction was the answer), champion_prediction, challenger_prediction (nan:
    none), for multiclass champion_probabilities and challenger_probabilities, error (why the challenger has none, or
    missing), champion_us, challenger_us (duration of the call to the model, which scored this row and *rows_in_call* -
    1 others), and the slice columns under their own names. A slice column that has the name of one of those above is
    called ``slice:<name>``.
    """
    chosen = Selection(root, streams.PAIRS, since_us=None if since is None else _micros(since), rollout=rollout)
    table = chosen.read()
    if table is None:
        return _empty(_PAIR_COLUMNS)
    for name in ("rollout", "champion", "challenger"):
        table = table.set_column(table.column_names.index(name), name, table[name].dictionary_encode())
    table = _with_both_probabilities(table)
    return _frame(_sorted(table.rename_columns([_plain_name(n) for n in table.column_names]), "received_at"))


def labels(
    root: TelemetryLocation,
    start: When = None,
    end: When = None,
    *,
    since: datetime | None = None,
    rule: LabelRule | None = None,
) -> pd.DataFrame:
    """Labels of predictions with a data time in ``[start, end)`` (to the second), that arrived *since* then:
    prediction_id, label, label_time (when it became known, if that was sent) and received_at. One row per prediction,
    the last to arrive counts. With *rule*, what is no label of the task has not arrived; the log says how many these
    were."""
    arrived = _label_rows(root, start, end, since)
    if rule is not None:
        arrived, unreadable = only_readable(arrived, rule)
        if unreadable:
            log.warning("%s labels are none of a %s task and count as missing", unreadable, rule.task)
    kept = arrived.drop_duplicates("prediction_id", keep="last")
    return kept.sort_values("prediction_id", ignore_index=True)


def joined(
    root: TelemetryLocation,
    start: When = None,
    end: When = None,
    *,
    columns: Sequence[str] | None = None,
    rule: LabelRule | None = None,
) -> pd.DataFrame:
    """`predictions` with the columns label and label_time, by *rule*; missing where no label has arrived."""
    known = labels(root, start, end, rule=rule)[["prediction_id", "label", "label_time"]]
    return predictions(root, start, end, columns=columns).merge(known, on="prediction_id", how="left", sort=False)


def count_labels(root: TelemetryLocation, start: When = None, end: When = None) -> LabelShare:
    """Counts of the labels that arrived, repeats and contradictions included."""
    arrived = _label_rows(root, start, end, None)
    values = arrived.assign(label=arrived["label"].astype(str)).groupby("prediction_id")["label"].nunique()
    return LabelShare(len(arrived), len(values), int((values > 1).sum()))


def _label_rows(root: TelemetryLocation, start: When, end: When, since: datetime | None) -> pd.DataFrame:
    """Every label that arrived, in the order of arrival. Ids know whole seconds, so both ends are widened to those."""
    first, last = _span(start, end)
    span = (first // _SECOND * _SECOND, -(-last // _SECOND) * _SECOND)
    table = Selection(root, streams.LABELS, span, since_us=None if since is None else _micros(since)).read()
    if table is None:
        return _empty(_LABEL_COLUMNS)
    frame = _frame(table)
    if frame["text"].isna().all():
        label = frame["number"]
    elif frame["number"].isna().all():
        label = frame["text"]
    else:
        label = frame["number"].astype(object).where(frame["text"].isna(), frame["text"])
    return frame.assign(label=label).sort_values("received_at", kind="stable", ignore_index=True)[list(_LABEL_COLUMNS)]


def _with_both_probabilities(table: pa.Table) -> pa.Table:
    """A challenger that never gave any has the column nevertheless."""
    import pyarrow as pa

    given = PROBABILITIES & set(table.column_names)
    for name in PROBABILITIES - given if given else ():
        table = table.append_column(name, pa.nulls(table.num_rows, pa.list_(pa.float64())))
    return table


def _plain_name(name: str) -> str:
    plain = name.removeprefix(SLICE)
    return name if plain in PAIR_COLUMNS else plain


def _sorted(table: pa.Table, by: str) -> pa.Table:
    import pyarrow.compute as pc

    keys = table.select([by, "prediction_id"])
    return table.take(pc.sort_indices(keys, [(by, "ascending"), ("prediction_id", "ascending")]))


def _frame(table: pa.Table) -> pd.DataFrame:
    frame: pd.DataFrame = table.to_pandas(split_blocks=True, self_destruct=True)
    return frame


def _empty(columns: Sequence[str]) -> pd.DataFrame:
    import pandas as pd

    numbers = ("prediction", "label", "propensity", "champion_prediction", "challenger_prediction")
    kinds = {
        **dict.fromkeys(("time", "received_at", "label_time"), "datetime64[us, UTC]"),
        **dict.fromkeys((*numbers, "champion_us", "challenger_us"), "float64"),
        "by_challenger": "bool",
        "rows_in_call": "int64",
    }
    return pd.DataFrame({name: pd.Series(dtype=kinds.get(name, "str")) for name in columns})


def _span(start: When, end: When) -> tuple[int, int]:
    return (EVER[0] if start is None else _micros(start), EVER[1] if end is None else _micros(end))


def _micros(when: Any) -> int:
    from trimtab.requests.values import to_micros

    moment = datetime.fromisoformat(when) if isinstance(when, str) else when
    return to_micros(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
