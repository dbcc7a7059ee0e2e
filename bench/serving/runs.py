"""What is measured, part by part: each starts its server, has its answers checked, measures and stops it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from typing import Any

from bench.serving import environment, servers
from bench.serving.account import Count, compare, said_to_have_answered
from bench.serving.load import Point, Target, children_s
from bench.serving.machine import BUSY_SHARE, Patience
from bench.serving.material import ARROW, BULK_ROWS, CHECKED_ROWS, ROOT, Material
from bench.serving.processes import DidNotRun, machine_busy_s
from bench.serving.servers import Running, Server, check_bulk, serving

CONNECTIONS = (1, 16, 64)
BULK_CONNECTIONS = (2, 4)


@dataclass
class Bench:
    """One run of the benchmark. *accounts* compares answers with telemetry."""

    material: Material
    warm_s: int
    seconds: int
    patience: Patience
    accounts: dict[str, Any] = field(default_factory=dict)


def floor(bench: Bench) -> dict[str, Any]:
    """An empty application."""
    return _plain(bench, servers.floor())


def mlflow(bench: Bench) -> dict[str, Any]:
    """`mlflow models serve`."""
    return _plain(bench, servers.mlflow(bench.material))


def bentoml(bench: Bench) -> dict[str, Any]:
    """BentoML with adaptive batching."""
    return _plain(bench, servers.bentoml(bench.material, environment.ready()))


def trimtab(bench: Bench) -> dict[str, Any]:
    """Our server with a champion."""
    return _ours(bench, "trimtab", shadow=False)


def shadow(bench: Bench) -> dict[str, Any]:
    """Our server with a champion, and a challenger that scores every request as well."""
    return _ours(bench, "shadow", shadow=True)


def bulk(bench: Bench) -> dict[str, Any]:
    """Requests of many rows to our server, as JSON and as Arrow, and the bare model on the same rows."""
    ways: dict[str, Any] = {}
    count = Count(CHECKED_ROWS, rows_per_request=BULK_ROWS)
    with servers.state(bench.material, shadow=False) as home:
        with serving(servers.trimtab(home, "bulk"), bench.material) as running:
            for name, kind in (("JSON columns", "application/json"), ("Arrow", ARROW)):
                form = "bulk-arrow" if kind == ARROW else "bulk-json"
                target = Target(running.target.url, bench.material.bodies(form), kind, kind)
                try:
                    check_bulk(target, bench.material, form)
                except DidNotRun as error:
                    print(f"  {name}: {error}", flush=True)
                    continue
                count.answered += BULK_ROWS
                for connections in BULK_CONNECTIONS:
                    point = count.point(bench, running, target, connections)
                    _print(connections, point, "requests")
                    found = {**point.as_json(), "rows_s": round(point.rps * BULK_ROWS)}
                    ways[f"{name}, {connections} connections"] = found
            said = said_to_have_answered(running.url)
        bench.accounts["bulk"] = compare(home, count, said)
    if not ways:
        raise DidNotRun("our server answered no bulk request")
    best = max(point["rows_s"] for point in ways.values())
    return {"trimtab_rows_s": best, "model_rows_s": round(_bare_model(bench)), "rows": BULK_ROWS, "ways": ways}


def _plain(bench: Bench, server: Server) -> dict[str, Any]:
    with serving(server, bench.material) as running:
        return _points(bench, running, Count())


def _ours(bench: Bench, name: str, *, shadow: bool) -> dict[str, Any]:
    count = Count(CHECKED_ROWS)
    with servers.state(bench.material, shadow=shadow) as home:
        with serving(servers.trimtab(home, name), bench.material) as running:
            if shadow:
                _challenger_is_there(running, bench.material)
            found = _points(bench, running, count)
            said = said_to_have_answered(running.url)
        bench.accounts[name] = compare(home, count, said, has_pairs=shadow)
    if shadow and not bench.accounts[name]["pairs"]:
        raise DidNotRun("the challenger is loaded, but telemetry has no pairs: it scored nothing")
    return found


def _points(bench: Bench, running: Running, count: Count) -> dict[str, Any]:
    found = {}
    for connections in CONNECTIONS:
        point = count.point(bench, running, running.target, connections)
        _print(connections, point, "requests")
        found[str(connections)] = point.as_json()
    return found


def _print(connections: int, point: Point, what: str) -> None:
    refused = f", {point.refused} refused" if point.refused else ""
    print(
        f" {connections:>3}: {point.rps:7,.0f} {what}/s, p50 {point.p50_ms:8.3f} ms, p99 {point.p99_ms:8.3f} ms, "
        f"server {point.server_cpu_us:,.0f} µs a request, others {point.others_cpu:.0%} of a core{refused}",
        flush=True,
    )


def _challenger_is_there(running: Running, material: Material) -> None:
    """Without it the shadow would cost nothing."""
    with urllib.request.urlopen(f"{running.url}/live", timeout=10) as answer:
        live = json.loads(answer.read())
    if live["challenger"] != material.challenger:
        raise DidNotRun(f"the challenger {material.challenger[:12]} is not loaded: {live}")


def _bare_model(bench: Bench) -> float:
    """Rows per second of the pipeline itself, in a process of its own; again when others disturbed it."""
    tries: list[tuple[float, float]] = []
    while not tries or (tries[-1][0] > BUSY_SHARE and bench.patience.spend(bench.warm_s + bench.seconds)):
        bench.patience.settle()
        tries.append(_bare_once(bench))
    others, rows_s = min(tries)
    print(f"  the bare model: {rows_s:,.0f} rows/s, others {others:.0%} of a core", flush=True)
    return rows_s


def _bare_once(bench: Bench) -> tuple[float, float]:
    """What others took meanwhile, as a share of one core, and the rows per second."""
    given = (bench.material.pipeline, bench.material.folder / "bulk.parquet", BULK_ROWS, bench.warm_s, bench.seconds)
    began, machine, mine = time.monotonic(), machine_busy_s(), children_s()
    done = subprocess.run(
        [sys.executable, "-m", "bench.serving.bare", *map(str, given)],
        cwd=ROOT, capture_output=True, text=True, check=False, env=servers.clean_environment(),
    )  # fmt: skip
    if done.returncode:
        raise DidNotRun(f"the bare model: {done.stderr[-800:]}")
    others = (machine_busy_s() - machine) - (children_s() - mine)
    return max(0.0, others) / (time.monotonic() - began), float(done.stdout)
