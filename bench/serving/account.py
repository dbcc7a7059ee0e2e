"""Held against one another: the answers that clients got, what the server says that it answered, and telemetry."""

from __future__ import annotations

import re
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.serving.load import Point, Target, measure
from bench.serving.machine import BUSY_SHARE

if TYPE_CHECKING:
    from bench.serving.runs import Bench
    from bench.serving.servers import Running

_ANSWERED = re.compile(r"^trimtab_predictions_total\{[^}]*\} (\S+)$", re.MULTILINE)
_SETTLE_S = 1.0


@dataclass
class Count:
    """Rows whose answers clients got, warm-ups and checks included, and how many more wrk may have left unread: it ends
    while its last requests are being answered."""

    answered: int = 0
    left: int = 0
    rows_per_request: int = 1

    def point(self, bench: Bench, running: Running, target: Target, connections: int) -> Point:
        """Warm up, measure; again when others disturbed it, while there is patience. The least disturbed counts."""
        tries: list[Point] = []
        while not tries or (tries[-1].others_cpu > BUSY_SHARE and bench.patience.spend(bench.warm_s + bench.seconds)):
            bench.patience.settle()
            self._send(running, target, connections, bench.warm_s)
            tries.append(self._send(running, target, connections, bench.seconds))
        return min(tries, key=lambda point: point.others_cpu)

    def _send(self, running: Running, target: Target, connections: int, seconds: int) -> Point:
        point = measure(target, running.process, connections=connections, seconds=seconds)
        self.answered += point.answered * self.rows_per_request
        self.left += connections * self.rows_per_request
        return point


def said_to_have_answered(url: str) -> int:
    """Rows by the server's own metric, once it has nothing more to do."""
    time.sleep(_SETTLE_S)
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        return int(sum(map(float, _ANSWERED.findall(answer.read().decode()))))


def compare(home: Path, count: Count, said: int, *, has_pairs: bool = False) -> dict[str, Any]:
    """The account of one server that was stopped. It is complete when every row that was answered, read by a client or
    not, is in telemetry exactly once."""
    from stores import telemetry

    ids = telemetry.predictions(home / "telemetry", columns=["prediction_id"])["prediction_id"]
    recorded, distinct = len(ids), int(ids.nunique())
    complete = recorded == distinct == said and count.answered <= recorded <= count.answered + count.left
    found = {
        "complete": complete,
        "answers_read": count.answered,
        "at_most_unread": count.left,
        "server_said": said,
        "recorded": recorded,
        "distinct": distinct,
    }
    return found | ({"pairs": len(telemetry.pairs(home / "telemetry"))} if has_pairs else {})


def sentence(name: str, account: dict[str, Any]) -> str:
    """An account in words."""
    words = (
        f"{account['recorded']:,} rows recorded ({account['distinct']:,} distinct), {account['server_said']:,} "
        f"answered by the server's metric, {account['answers_read']:,} read by clients, who left at most "
        f"{account['at_most_unread']:,} unread"
    )
    pairs = f"; {account['pairs']:,} pairs" if "pairs" in account else ""
    return f"telemetry of {name} is {'complete' if account['complete'] else 'NOT COMPLETE'}: {words}{pairs}"
