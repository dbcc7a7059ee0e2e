"""The benchmark's command line: everything in turn, a table, and bench/results/serving.json.

python -m bench.serving [--quick] [--only floor,trimtab] [--seconds 5]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from itertools import starmap
from typing import Any

from bench.serving import machine, runs
from bench.serving.account import sentence
from bench.serving.goals import goals, table
from bench.serving.load import ensure_wrk
from bench.serving.material import ROOT, ready
from bench.serving.processes import DidNotRun
from bench.serving.runs import Bench

RESULTS = ROOT / "bench" / "results" / "serving.json"
PARTS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "floor": runs.floor,
    "mlflow": runs.mlflow,
    "bentoml": runs.bentoml,
    "trimtab": runs.trimtab,
    "shadow": runs.shadow,
    "bulk": runs.bulk,
}
QUICK = ("floor", "trimtab")


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write; 1 when something did not run, 0 also when a goal is missed."""
    given = _arguments(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    parts = given.only or (QUICK if given.quick else tuple(PARTS))
    seconds = given.seconds or (2 if given.quick else 5)
    began, failures = time.monotonic(), {}
    results: dict[str, Any] = {"machine": machine.describe(), "seconds": seconds}
    try:
        ensure_wrk(is_root=os.geteuid() == 0)
        machine.be_alone()
        bench = Bench(ready(), 1 if given.quick else 2, seconds, machine.Patience(given.patience))
    except DidNotRun as error:
        print(error, file=sys.stderr)
        return 1
    for part in parts:
        print(f"{part} …", flush=True)
        try:
            results[part] = PARTS[part](bench)
        except DidNotRun as error:
            failures[part] = str(error)
            print(f"{part} did not run: {error}", file=sys.stderr, flush=True)
    results |= {"telemetry": bench.accounts, "versions": machine.versions()}
    results["ratios"] = {goal.name: goal.as_json() for goal in goals(results)}
    results |= {"did_not_run": failures, "took_s": round(time.monotonic() - began, 1)}
    lines = [*table(results), "", *starmap(sentence, bench.accounts.items())]
    print("", *lines, f"{results['took_s']} s; {results['machine']}", sep="\n")
    if parts == tuple(PARTS):
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        print(f"written to {RESULTS.relative_to(ROOT)}")
    return 1 if failures else 0


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-serving ARGS=…", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the floor and our server only, 2 s a point")
    parser.add_argument("--only", type=_parts, help=f"some of {','.join(PARTS)}; nothing is written")
    parser.add_argument("--seconds", type=int, help="length of a point, whole seconds")
    parser.add_argument("--patience", type=float, default=60, help="seconds to spend on a machine that is not idle")
    return parser.parse_args(arguments)


def _parts(text: str) -> tuple[str, ...]:
    given = tuple(text.split(","))
    if unknown := set(given) - PARTS.keys():
        raise argparse.ArgumentTypeError(f"there is no {', '.join(sorted(unknown))}")
    return given


def _interrupt(*_: object) -> None:
    """SIGTERM is like Ctrl-C: servers are stopped on the way out."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
