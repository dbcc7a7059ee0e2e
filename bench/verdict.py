"""Simulate rollouts with a look after every label, and count wrong verdicts.

It runs the product's own functions (`trimtab.rollout.sequential_test.accumulate` and `decide`) on loss differences with
a known mean, next to two usual methods: a repeated t-test, and the fixed threshold of canary tools. It prints Markdown
and writes bench/results/verdict.json.

    python -m bench.verdict
"""

from __future__ import annotations

import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from trimtab.data.arrays import Floats, Mask
from trimtab.rollout import evalues, sequential_test
from trimtab.rollout.config import RolloutConfig
from trimtab.rollout.verdict import VerdictOutcome

RESULTS = Path(__file__).resolve().parent / "results" / "verdict.json"
ROLLOUTS = 2000
ALPHA = RolloutConfig().alpha
LABELS = 20_000  # a rollout without a verdict by then has none
CHECK = 500  # labels per check of the fixed threshold
PASSES, FAILURES = 10, 5  # as in Flagger: steps to go, and failed checks that roll back
SLICES, SLICE_MARGIN = 8, 0.01
DIFFERENCES = (-0.004, -0.002, 0.0, 0.002, 0.004, 0.008, 0.016)
RULES = ("verdict", "t-test", "threshold")

Random = np.random.Generator


def bernoulli(random: Random, labels: int, mean: float) -> Floats:
    """Right or wrong: the models disagree on one row in twenty."""
    draw = random.random(labels)
    return np.where(draw < (0.05 + mean) / 2, 1.0, np.where(draw < 0.05, -1.0, 0.0))


def skewed(random: Random, labels: int, mean: float) -> Floats:
    """Slightly better on most rows, much worse on one row in a hundred."""
    rare = np.where(random.random(labels) < 0.01, 0.9, 0.0)
    return rare - 0.009 + mean


def heavy(random: Random, labels: int, mean: float) -> Floats:
    """Student's t with two degrees of freedom, which has no variance, clipped."""
    return np.clip(0.02 * random.standard_t(2, labels), -0.9, 0.9) + mean


def brier(random: Random, labels: int, mean: float) -> Floats:
    """Brier loss differences of two models with small, mostly equal errors in the probability of a binary label."""
    chance = random.uniform(0.25, 0.75, labels)
    miss = max(0.006, abs(mean))  # the mean squared error of the probability, of which the challenger has more
    shape = math.sqrt(3) * random.uniform(-1, 1, labels)
    alike = np.where(random.random(labels) < 0.95, 1, -1)
    champion = chance + math.sqrt(miss - mean / 2) * shape
    challenger = chance + math.sqrt(miss + mean / 2) * shape * alike
    truth = random.random(labels) < chance
    found: Floats = (challenger - truth) ** 2 - (champion - truth) ** 2
    return found


def late(random: Random, labels: int, mean: float) -> Floats:
    """Brier-like with a varying spread, and labels that arrive out of order, a tenth of them much later."""
    day = 1 + 0.8 * np.sin(np.arange(labels) / 150)
    made = brier(random, labels, 0.0) * day + mean
    delay = random.exponential(np.where(random.random(labels) < 0.1, labels / 4, 200.0))
    return made[np.argsort(np.arange(labels) + delay, kind="stable")]


def swinging(random: Random, labels: int, mean: float) -> Floats:
    """Brier-like, with a mean that oscillates around *mean*; its running average stays on one side."""
    swing = 0.006 * np.sin(np.arange(labels) * 2 * math.pi / 4000)
    return brier(random, labels, 0.0) + mean + (swing if mean > 0 else -swing)


@dataclass(frozen=True)
class Shape:
    """A distribution of loss differences, and a margin that can be detected with `LABELS` labels."""

    name: str
    make: Callable[[Random, int, float], Floats]
    margin: float


SHAPES = (
    Shape("0/1 losses", bernoulli, 0.01),
    Shape("skewed", skewed, 0.005),
    Shape("heavy-tailed, clipped", heavy, 0.002),
    Shape("Brier-like", brier, 0.002),
    Shape("late, out of order", late, 0.002),
)

# The error rates are not guaranteed here: the expected difference changes over time, and only its running average
# satisfies the hypothesis.
UNSTEADY = Shape("swinging (not promised)", swinging, 0.002)


def by_verdict(differences: Floats, margin: float, *, min_labels: int = 500) -> tuple[VerdictOutcome, int]:
    """The product's sequential test."""
    rules = RolloutConfig(margin=margin, min_labels=min_labels)
    return sequential_test.decide(sequential_test.accumulate(differences, rules), rules)


def by_t_test(differences: Floats, margin: float) -> tuple[VerdictOutcome, int]:
    """One-sided t-tests at alpha after every label from the 500th on: the first one that is significant counts."""
    seen = np.arange(1, len(differences) + 1)
    mean = np.cumsum(differences) / seen
    variance = (np.cumsum(differences**2) - seen * mean**2) / np.maximum(seen - 1, 1)
    doubt = NormalDist().inv_cdf(1 - ALPHA) * np.sqrt(np.maximum(variance, 1e-12) / seen)
    late_enough = seen >= 500
    promoted, worse = late_enough & (mean + doubt < margin), late_enough & (mean - doubt > 0)
    at = int((promoted | worse).argmax())
    if not (promoted[at] or worse[at]):
        return "keep collecting", len(differences)
    return ("roll back" if worse[at] else "promote"), at + 1


def by_threshold(differences: Floats, margin: float) -> tuple[VerdictOutcome, int]:
    """The canary tools' rule: a check every 500 labels, passed when their mean difference is within the margin.

    Ten passed checks promote, five failed ones roll back, whichever comes first (Flagger's steps and threshold).
    """
    checks = differences[: len(differences) // CHECK * CHECK].reshape(-1, CHECK).mean(axis=1)
    passed, failed = np.cumsum(checks <= margin), np.cumsum(checks > margin)
    at = int(((passed >= PASSES) | (failed >= FAILURES)).argmax())
    return ("roll back" if failed[at] >= FAILURES else "promote"), (at + 1) * CHECK


def compared(shape: Shape, mean: float, seeds: Iterable[int]) -> dict[str, Counter[str]]:
    """Count the outcomes of each rule in rollouts of *shape* with the true mean difference *mean*."""
    found: dict[str, Counter[str]] = {rule: Counter() for rule in RULES}
    for seed in seeds:
        differences = shape.make(np.random.default_rng(seed), LABELS, mean)
        for rule, judge in zip(RULES, (by_verdict, by_t_test, by_threshold), strict=True):
            found[rule][judge(differences, shape.margin)[0]] += 1
    return found


def sliced(harmed: float, elsewhere: float, seeds: Iterable[int]) -> Counter[str]:
    """Count verdicts where the mean is *harmed* in one of eight slices and *elsewhere* in the others."""
    rules = RolloutConfig(slices={"slice": SLICE_MARGIN})
    found: Counter[str] = Counter()
    for seed in seeds:
        random = np.random.default_rng(seed)
        member = random.integers(0, SLICES, LABELS // 2)
        means = np.where(member == 0, harmed, elsewhere)
        differences = brier(random, len(member), 0.0) + means
        masks: dict[tuple[str, str], Mask] = {("slice", str(k)): member == k for k in range(SLICES)}
        found[sequential_test.decide(sequential_test.accumulate(differences, rules, masks), rules)[0]] += 1
    return found


def detected(difference: float, seeds: Iterable[int]) -> list[float]:
    """Labels until the right verdict on Brier-like losses; inf for a wrong verdict or none."""
    right = "roll back" if difference > 0 else "promote"
    found = []
    for seed in seeds:
        made = brier(np.random.default_rng(seed), 2 * LABELS, difference)
        outcome, labels = by_verdict(made, RolloutConfig().margin, min_labels=1)
        found.append(labels if outcome == right else math.inf)
    return found


def labels_to_detect(pool: ProcessPoolExecutor) -> list[dict[str, Any]]:
    """Median labels for each of `DIFFERENCES`, next to a z-test with known variance that looks once."""
    table = []
    for j, difference in enumerate(DIFFERENCES):
        counts = [n for part in pool.map(detected, [difference] * 8, _seeds(100 + j)) for n in part]
        distance = difference if difference > 0 else RolloutConfig().margin - difference
        sd = float(brier(np.random.default_rng(j), 1_000_000, difference).std())
        optimum, even_chance = (
            math.ceil(((NormalDist().inv_cdf(1 - ALPHA) + NormalDist().inv_cdf(power)) * sd / distance) ** 2)
            for power in (0.8, 0.5)
        )
        median = float(np.median(counts))
        eighty = float(np.quantile(counts, 0.8, method="higher"))
        table.append({
            "difference": difference, "median": int(median), "fixed_sample_optimum": optimum,
            "verdict": "roll back" if difference > 0 else "promote", "sd": round(sd, 4),
            "ratio": round(median / optimum, 2),
            "labels_at_80_percent": int(eighty) if math.isfinite(eighty) else None,
            "fixed_sample_optimum_50_percent": even_chance, "least_of_any_valid_test": _least(distance),
            "detectable_with_median": round(evalues.detectable(int(median), sd, alpha=ALPHA, power=0.5), 5),
            "distance": distance,
        })  # fmt: skip
    return table


def _least(distance: float) -> int:
    """Lower bound on the labels that any test valid for all losses in [-1, 1] needs to show *distance* half the time.

    If a share of about *distance* of the rows had the largest loss, the hypothesis would hold, and fewer labels would
    too often contain none of these rows.
    """
    return math.ceil(math.log(0.5 / ALPHA) / -math.log1p(-distance / (1 + distance)))


def _seeds(scenario: int, *, parts: int = 8) -> list[range]:
    size = ROLLOUTS // parts
    return [range(scenario * ROLLOUTS + k * size, scenario * ROLLOUTS + (k + 1) * size) for k in range(parts)]


def _worst(rows: list[dict[str, Any]], rule: str, error: str) -> float:
    return max(float(row[rule][error]) for row in rows)


def main() -> None:
    """Run all simulations, print the tables, and write the results."""
    began = time.monotonic()
    with ProcessPoolExecutor(os.process_cpu_count() if hasattr(os, "process_cpu_count") else os.cpu_count()) as pool:
        shapes = [_row(pool, j, shape) for j, shape in enumerate(SHAPES)]
        unsteady = _row(pool, len(SHAPES), UNSTEADY)
        slices = _slices(pool)
        detect = labels_to_detect(pool)
    error = {
        rule: {kind: _worst(shapes, rule, kind) for kind in ("false_promotions", "false_rollbacks")} for rule in RULES
    }
    result = {
        "rollouts": ROLLOUTS, "alpha": ALPHA, **error["verdict"],
        "repeated_t_test": max(error["t-test"].values()), "fixed_threshold": max(error["threshold"].values()),
        "labels_to_detect": detect, "meaning": "errors are the worst over the shapes; for the two other rules also the "
        "larger of both errors", "worst": error, "shapes": shapes, "unsteady": unsteady, "slices": slices,
        "seconds": round(time.monotonic() - began),
    }  # fmt: skip
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    print(_table(result))


def _row(pool: ProcessPoolExecutor, j: int, shape: Shape) -> dict[str, Any]:
    row: dict[str, Any] = {"shape": shape.name, "margin": shape.margin}
    row |= {rule: {} for rule in RULES}
    for i, (mean, wrong, kind) in enumerate((
        (shape.margin, "promote", "false_promotions"), (0.0, "roll back", "false_rollbacks")
    )):  # fmt: skip
        parts = list(pool.map(compared, [shape] * 8, [mean] * 8, _seeds(2 * j + i)))
        for rule in RULES:
            row[rule][kind] = sum(part[rule][wrong] for part in parts) / ROLLOUTS
    row["sd"] = round(float(shape.make(np.random.default_rng(j), 200_000, 0.0).std()), 4)
    return row


def _slices(pool: ProcessPoolExecutor) -> dict[str, Any]:
    cases = {
        "no difference in any": (0.0, 0.0),
        "one worse by exactly its margin, the others better": (SLICE_MARGIN, -0.002),
        "one worse by twice its margin, the others better": (2 * SLICE_MARGIN, -0.004),
    }
    found: dict[str, Any] = {"slices": SLICES, "margin": SLICE_MARGIN}
    for j, (name, means) in enumerate(cases.items()):
        total: Counter[str] = Counter()
        for part in pool.map(sliced, [means[0]] * 8, [means[1]] * 8, _seeds(50 + j)):
            total += part
        found[name] = {"promoted": total["promote"] / ROLLOUTS, "rolled_back": total["roll back"] / ROLLOUTS}
    return found


def _table(result: dict[str, Any]) -> str:
    lines = [
        f"{ROLLOUTS:,} rollouts each, alpha {ALPHA}, a look after every label up to {LABELS:,}", "",
        "| losses | sd | margin | worse by the margin, promoted: verdict | t-test | threshold "
        "| no difference, rolled back: verdict | t-test | threshold |", "|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in (*result["shapes"], result["unsteady"]):
        cells = [f"{row[rule][kind]:.1%}" for kind in ("false_promotions", "false_rollbacks") for rule in RULES]
        lines.append(f"| {row['shape']} | {row['sd']} | {row['margin']} | {' | '.join(cells)} |")
    lines += ["", f"| {SLICES} slices, margin {SLICE_MARGIN} | promoted | rolled back |", "|---|---|---|"]
    lines += [
        f"| {name} | {case['promoted']:.1%} | {case['rolled_back']:.1%} |"
        for name, case in result["slices"].items() if isinstance(case, dict)
    ]  # fmt: skip
    lines += [
        "",
        "| difference | verdict | sd | labels, median | 80 % | fixed sample, 50 % | 80 % | no test before | ratio |",
        "|---" * 9 + "|",
    ]
    keys = (
        "median", "labels_at_80_percent", "fixed_sample_optimum_50_percent", "fixed_sample_optimum",
        "least_of_any_valid_test",
    )  # fmt: skip
    lines += [
        f"| {d['difference']:+.3f} | {d['verdict']} | {d['sd']} | {' | '.join(_count(d[key]) for key in keys)} "
        f"| {d['ratio']} |"
        for d in result["labels_to_detect"]
    ]
    return "\n".join([*lines, "", f"{result['seconds']} s"])


def _count(labels: int | None) -> str:
    return "none" if labels is None else f"{labels:,}"


if __name__ == "__main__":
    main()
