"""Users, played: rows of the source sent to the live server over HTTP, and their labels later."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson
import pandas as pd
from pydantic import SecretStr

from tasks.model_server import ModelServerClient
from trimtab.config.sections import ColumnsConfig

ROWS_PER_REQUEST = 1000
LABELS_PER_REQUEST = 5000


class TrafficError(RuntimeError):
    """The model server did not answer as it must."""


@dataclass
class Traffic:
    """What was sent to the *server* so far. *answered* holds the predictions' ids, *open* the answers whose labels are
    not delivered yet, with the columns prediction_id, time and label."""

    server: str
    columns: ColumnsConfig
    answered: set[str] = field(default_factory=set)
    labelled: int = 0
    key: SecretStr | None = None
    open: pd.DataFrame = field(default_factory=lambda: pd.DataFrame({"prediction_id": [], "time": [], "label": []}))

    def resume(self, recorded: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
        """Those of *rows* that were not asked for before a replay stopped: all whose id is not *recorded* in telemetry,
        which has the columns prediction_id, label and the id. Labels that it lacks are delivered with the next ones."""
        if self.columns.id not in recorded:
            return rows
        known = recorded[recorded[self.columns.id].notna()].drop_duplicates(self.columns.id)
        unlabelled = known.loc[known["label"].isna(), ["prediction_id", self.columns.id]]
        found = unlabelled.merge(rows, on=self.columns.id)
        self.open = pd.DataFrame(
            {"prediction_id": found["prediction_id"], "time": found[self.columns.time],
             "label": found[self.columns.target]}
        )  # fmt: skip
        return rows[~rows[self.columns.id].isin(known[self.columns.id])].reset_index(drop=True)

    def send(self, rows: pd.DataFrame) -> list[str]:
        """Ask for a prediction of every row, in order; the predictions' ids. Raises TrafficError."""
        ids: list[str] = []
        with self._client() as client:
            for body in self._bodies(rows):
                answer = _checked(client.post("/predict", content=body, headers={"content-type": "application/json"}))
                ids += [prediction["id"] for prediction in answer["predictions"]]
        waiting = pd.DataFrame(
            {"prediction_id": ids, "time": rows[self.columns.time], "label": rows[self.columns.target]}
        )
        self.open = pd.concat([self.open, waiting], ignore_index=True) if len(self.open) else waiting
        self.answered |= set(ids)
        return ids

    def deliver(self, before: pd.Timestamp) -> list[str]:
        """Deliver the labels of all answers with a time before *before*, where there is one; the predictions' ids."""
        due = self.open["time"] < before
        known = self.open[due & self.open["label"].notna()]
        with self._client() as client:
            for start in range(0, len(known), LABELS_PER_REQUEST):
                part = known.iloc[start : start + LABELS_PER_REQUEST]
                labels = [
                    {"id": id, "label": _plain(label)}
                    for id, label in zip(part["prediction_id"], part["label"], strict=True)
                ]
                _checked(client.post("/labels", content=orjson.dumps({"labels": labels}),
                                     headers={"content-type": "application/json"}))  # fmt: skip
        self.open = self.open[~due].reset_index(drop=True)
        self.labelled += len(known)
        return known["prediction_id"].tolist()

    def _client(self) -> httpx.Client:
        return httpx.Client(base_url=self.server, timeout=60, headers=ModelServerClient(self.server, self.key).headers)

    def _bodies(self, rows: pd.DataFrame) -> Iterator[bytes]:
        names = [*self.columns.features, self.columns.time, self.columns.id]
        names += [self.columns.key] if self.columns.key and self.columns.key not in names else []
        sent = rows[names].assign(**{self.columns.time: rows[self.columns.time].dt.strftime("%Y-%m-%dT%H:%M:%S")})
        for start in range(0, len(sent), ROWS_PER_REQUEST):
            part = sent.iloc[start : start + ROWS_PER_REQUEST]
            yield orjson.dumps({"columns": {name: part[name].tolist() for name in names}})  # nan is null in JSON


def _plain(label: Any) -> Any:
    """Whole numbers as integers, as class labels are; numpy's scalars as Python's."""
    label = label.item() if hasattr(label, "item") else label
    return int(label) if isinstance(label, float) and label.is_integer() else label


def _checked(answer: httpx.Response) -> dict[str, Any]:
    if answer.status_code != httpx.codes.OK:
        raise TrafficError(f"{answer.url} answered {answer.status_code}: {answer.text[:300]}")
    return dict(orjson.loads(answer.content))
