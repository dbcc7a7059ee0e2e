"""What was wanted of the model server and what was found, and the table for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bench.serving.machine import BUSY_SHARE

Results = Mapping[str, Any]
SERVERS = ("floor", "mlflow", "bentoml", "trimtab", "shadow")
CONNECTIONS = ("1", "16", "64")


@dataclass(frozen=True)
class Goal:
    """*found* has to be at least *wanted*, or at most when *is_limit*."""

    name: str
    found: float
    wanted: float
    unit: str
    is_limit: bool = False

    @property
    def met(self) -> bool:
        """Whether the goal is reached; a number that is none never does."""
        return self.found <= self.wanted if self.is_limit else self.found >= self.wanted

    def as_json(self) -> dict[str, Any]:
        """As the results file has it."""
        return {"found": round(self.found, 4), "wanted": self.wanted, "is_limit": self.is_limit, "met": self.met}


def goals(results: Results) -> Iterator[Goal]:
    """The goals whose servers were measured."""

    def value(server: str, connections: str, what: str = "rps") -> float:
        return float(results[server][connections][what])

    if "trimtab" not in results:
        return
    if "mlflow" in results:
        yield Goal("of MLflow's requests/s at 16", value("trimtab", "16") / value("mlflow", "16"), 100, "times")
    if "bentoml" in results:
        yield Goal("of BentoML's requests/s at 64", value("trimtab", "64") / value("bentoml", "64"), 15, "times")
    if "floor" in results:
        for many in ("16", "64"):
            yield Goal(
                f"of the floor's requests/s at {many}", value("trimtab", many) / value("floor", many), 0.35, "times"
            )
    yield Goal("p50 at 1", value("trimtab", "1", "p50_ms"), 1.0, "ms", is_limit=True)
    spread = value("trimtab", "64", "p99_ms") / value("trimtab", "64", "p50_ms")
    yield Goal("p99 of p50 at 64", spread, 5, "times", is_limit=True)
    if "bulk" in results:
        bulk = results["bulk"]
        yield Goal("of the bare model's rows/s, bulk", bulk["trimtab_rows_s"] / bulk["model_rows_s"], 0.8, "times")
    if "shadow" in results:
        for many in ("16", "64"):
            kept = value("shadow", many) / value("trimtab", many)
            yield Goal(f"of requests/s kept in shadow at {many}", kept, 2 / 3, "times")


def table(results: Results) -> Iterator[str]:
    """Lines of Markdown."""
    yield (
        "| requests/s, p50, p99 in ms | " + " | ".join(f"{c} connection{'s' * (c != '1')}" for c in CONNECTIONS) + " |"
    )
    yield "|---|" + "---|" * len(CONNECTIONS)
    for server in SERVERS:
        if server in results:
            yield f"| {server} | " + " | ".join(map(_cell, (results[server][c] for c in CONNECTIONS))) + " |"
    if "bulk" in results:
        yield ""
        yield f"| requests of {results['bulk']['rows']:,} rows | rows/s | |"
        yield "|---|---|---|"
        for name, point in results["bulk"]["ways"].items():
            yield f"| {name} | {point['rows_s']:,.0f} | {_trouble(point)} |"
        yield f"| the bare model | {results['bulk']['model_rows_s']:,.0f} | |"
    found = list(goals(results))
    if found:
        yield ""
        yield "| goal | found | wanted | |"
        yield "|---|---|---|---|"
    for goal in found:
        sign = "≤" if goal.is_limit else "≥"
        verdict = "met" if goal.met else "**missed**"
        yield f"| {goal.name} | {goal.found:.3g} {goal.unit} | {sign} {goal.wanted:.3g} {goal.unit} | {verdict} |"
    if (most := max(_taken_by_others(results), default=0.0)) > BUSY_SHARE:
        yield ""
        yield (
            f"Other processes took up to {most:.0%} of a core from a measurement: what is met or missed above says "
            "little. Run it again on a quiet machine, or with more --patience."
        )


def _taken_by_others(results: Results) -> Iterator[float]:
    groups = [results[name] for name in SERVERS if name in results]
    groups += [results["bulk"]["ways"]] if "bulk" in results else []
    for group in groups:
        for point in group.values():
            yield float(point.get("others_cpu", 0))


def _cell(point: Mapping[str, Any]) -> str:
    return f"{point['rps']:,.0f} · {point['p50_ms']:.2f} · {point['p99_ms']:.2f}{_trouble(point)}"


def _trouble(point: Mapping[str, Any]) -> str:
    """What makes a number doubtful."""
    doubts = []
    if point.get("refused"):
        doubts.append(f"{point['refused']} refused")
    if point.get("others_cpu", 0) > BUSY_SHARE:
        doubts.append(f"others took {point['others_cpu']:.0%} of a core")
    return f" ({', '.join(doubts)})" if doubts else ""
