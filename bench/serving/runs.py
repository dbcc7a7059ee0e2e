"""What is measured, part by part: each starts its server, checks its answers, measures and stops it."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.serving import servers
from bench.serving.load import Point, Target, measure
from bench.serving.material import CHECKED_ROWS, Material
from bench.serving.processes import DidNotRun
from bench.serving.servers import Running, Server, serving

CONNECTIONS = (1, 16, 64)
_ANSWERED = re.compile(r"^trimtab_predictions_total\{[^}]*\} (\S+)$", re.MULTILINE)


@dataclass
class Bench:
    """One run of the benchmark. *accounts* compares answers with telemetry, *remarks* are lines for the reader."""

    material: Material
    warm_s: float
    seconds: float
    accounts: dict[str, Any] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


@dataclass
class Count:
    """Answers that clients got, warm-ups and checks included, and how many wrk may have left unread at its ends."""

    answered: int = 0
    left: int = 0

    def point(self, bench: Bench, running: Running, target: Target, connections: int) -> Point:
        """Warm up, then measure."""
        self._send(running, target, connections, bench.warm_s)
        return self._send(running, target, connections, bench.seconds)

    def _send(self, running: Running, target: Target, connections: int, seconds: float) -> Point:
        point = measure(target, running.process, connections=connections, seconds=seconds)
        self.answered += point.answered
        self.left += connections
        return point


def _points(bench: Bench, running: Running, count: Count) -> dict[str, Any]:
    found = {}
    for connections in CONNECTIONS:
        point = count.point(bench, running, running.target, connections)
        found[str(connections)] = point.as_json()
        refused = f", {point.refused} refused" if point.refused else ""
        print(
            f" {connections:>3}: {point.rps:7,.0f} requests/s, p50 {point.p50_ms:8.3f} ms, p99 {point.p99_ms:8.3f} ms, "
            f"server {point.server_cpu_us:,.0f} µs a request, others {point.others_cpu:.0%} of a core{refused}",
            flush=True,
        )
    return found


def _plain(bench: Bench, server: Server) -> dict[str, Any]:
    with serving(server, bench.material) as running:
        return _points(bench, running, Count())


def floor(bench: Bench) -> dict[str, Any]:
    """An empty application."""
    return _plain(bench, servers.floor())


def trimtab(bench: Bench) -> dict[str, Any]:
    """Our server with a champion."""
    return _ours(bench, "trimtab", shadow=False)


def shadow(bench: Bench) -> dict[str, Any]:
    """Our server with a champion, and a challenger that scores every request as well."""
    return _ours(bench, "shadow", shadow=True)


def _ours(bench: Bench, name: str, *, shadow: bool) -> dict[str, Any]:
    count = Count(answered=CHECKED_ROWS)
    with servers.state(bench.material, shadow=shadow) as home:
        with serving(servers.trimtab(home, name), bench.material) as running:
            if shadow:
                _challenger_is_there(running, bench.material)
            found = _points(bench, running, count)
            said = _said(running)
        _account(bench, name, home, count, said, pairs=shadow)
    return found


def _challenger_is_there(running: Running, material: Material) -> None:
    """Without it the shadow would cost nothing."""
    with urllib.request.urlopen(f"{running.url}/live", timeout=10) as answer:
        live = json.loads(answer.read())
    if live["challenger"] != material.challenger:
        raise DidNotRun(f"the challenger {material.challenger[:12]} is not loaded: {live}")


def _said(running: Running) -> int:
    """Rows that the server says it has answered, once it has nothing more to do."""
    time.sleep(1)
    with urllib.request.urlopen(f"{running.url}/metrics", timeout=10) as answer:
        return int(sum(map(float, _ANSWERED.findall(answer.read().decode()))))


def _account(
    bench: Bench, name: str, home: Path, count: Count, said: int, *, pairs: bool = False, rows: int = 1
) -> None:
    """Hold telemetry against what clients got and the server said. wrk leaves while requests are being answered: their
    answers are recorded, and nobody read them."""
    from stores import telemetry

    ids = telemetry.predictions(home / "telemetry", columns=["prediction_id"])["prediction_id"]
    recorded, distinct, got = len(ids), int(ids.nunique()), count.answered * rows
    complete = recorded == distinct == said and got <= recorded <= got + count.left * rows
    account = {"answers_read": got, "left_open_at_most": count.left * rows, "server_said": said, "recorded": recorded,
               "distinct_ids": distinct, "complete": complete}  # fmt: skip
    if pairs and hasattr(telemetry, "pairs"):
        account["pairs"] = len(telemetry.pairs(home / "telemetry"))
    bench.accounts[name] = account
    bench.remarks.append(f"telemetry of {name}: {'complete' if complete else 'NOT COMPLETE'}: {account}")


def mlflow(bench: Bench) -> dict[str, Any]:
    """`mlflow models serve`."""
    raise DidNotRun("not written yet")


def bentoml(bench: Bench) -> dict[str, Any]:
    """BentoML."""
    raise DidNotRun("not written yet")


def bulk(bench: Bench) -> dict[str, Any]:
    """Requests of many rows."""
    raise DidNotRun("not written yet")
