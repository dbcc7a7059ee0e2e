"""What the loop's rules are worth on the 2013 flights, against other settings and other rules.

The replay's decisions without its servers: the same pure functions on the same rows, so that a year takes seconds. It
prints Markdown. `gain` is the share of what a retrain every period gains over the first model, each with the same
holdout.

    python -m bench.monitoring_settings
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean

import pandas as pd

from deployments.replay.baselines import accepted_rows, blend
from tasks import reports
from trimtab.config import params
from trimtab.config.params import Params
from trimtab.data.periods import Period, span
from trimtab.data.schema import Schema
from trimtab.evaluation import gate, metrics, monitoring
from trimtab.evaluation.monitoring import Facts, PeriodFinding, Quality
from trimtab.model import training

ROOT = Path(__file__).resolve().parent.parent
Rule = Callable[[Facts, Params, list[PeriodFinding]], tuple[bool, PeriodFinding]]


@dataclass
class World:
    """The year, and every model that was ever asked for in it."""

    settings: Params
    schema: Schema
    last: Period
    models: dict[tuple[str, str], tuple[training.Candidate, training.Split, pd.DataFrame]] = field(default_factory=dict)
    drifts: dict[tuple[str, str, str], reports.DriftReport] = field(default_factory=dict)

    @cached_property
    def rows(self) -> dict[Period, pd.DataFrame]:
        """Accepted rows by period."""
        periods = span(self.settings.first, self.last)
        return {period: accepted_rows(ROOT, self.settings, self.schema, period) for period in periods}

    def model(self, settings: Params, as_of: Period) -> tuple[training.Candidate, training.Split, pd.DataFrame]:
        """The candidate of *as_of*, its split and its reference."""
        key = (str(settings.train.holdout), str(as_of))
        if key not in self.models:
            known = pd.concat([rows for period, rows in self.rows.items() if period <= as_of], ignore_index=True)
            parts = training.split(known, settings, as_of)
            candidate = training.fit_candidate(settings, self.schema, parts, ROOT)
            self.models[key] = candidate, parts, training.reference_sample(candidate, parts, settings)
        return self.models[key]

    def drift(self, settings: Params, as_of: Period, period: Period) -> reports.DriftReport:
        """How far *period* lies from what the model of *as_of* was made for."""
        key = (str(settings.train.holdout), str(as_of), str(period))
        if key not in self.drifts:
            candidate, _, reference = self.model(settings, as_of)
            shown = self.rows[period].sample(min(settings.monitor.sample, len(self.rows[period])), random_state=0)
            shown = shown.assign(prediction=candidate.scorer.score(shown).prediction)
            features = candidate.scorer.features
            self.drifts[key] = reports.drift_report(reference, shown, features, threshold=0.1, period=str(period))
        return self.drifts[key]


def facts(world: World, settings: Params, as_of: Period, period: Period) -> Facts:
    """What drift-monitor would measure."""
    candidate, _, _ = world.model(settings, as_of)
    found, rows, name = world.drift(settings, as_of, period), world.rows[period], settings.gate.metric
    known = rows[rows[settings.columns.target].notna()]
    live = metrics.measure(name, training.labels_of(known, settings), candidate.scorer.score(known))[0]
    quality = Quality(metric=name, live=float(live), promised=candidate.metrics[name], labels=len(known))
    return Facts(
        period=str(period), release=str(as_of), rows=len(rows), importances=candidate.importances,
        distances=found.distances, prediction_distance=found.prediction_distance, quality=quality,
    )  # fmt: skip


def ours(found: Facts, settings: Params, earlier: list[PeriodFinding]) -> tuple[bool, PeriodFinding]:
    """The loop's own rule."""
    decision = monitoring.decide(found, settings.monitor, earlier=earlier)
    return decision.action == "retrain", decision.finding


def share_of_columns(share: float) -> Rule:
    """The usual rule: retrain when that share of the columns drifted."""

    def rule(found: Facts, settings: Params, earlier: list[PeriodFinding]) -> tuple[bool, PeriodFinding]:
        drifted = found.drifted(settings.monitor.drift.threshold)
        return len(drifted) / len(found.distances) >= share, PeriodFinding(period=found.period, release=found.release)

    return rule


@dataclass(frozen=True)
class Year:
    """How a year went: means of the metric, and how often was retrained and promoted."""

    live: float
    frozen: float
    every: float
    retrains: int
    promotions: int

    @property
    def gain(self) -> float:
        """Share of what a retrain every period gains."""
        return (self.live - self.frozen) / (self.every - self.frozen)


def live_through(world: World, settings: Params, rule: Rule = ours) -> Year:
    """A year under *rule*."""
    first = settings.first_train
    champion = before = first
    live, frozen, every, findings, retrains, promotions = [], [], [], list[PeriodFinding](), 0, 0
    for period in span(first.shift(1), world.last):
        live.append(_metric(world, settings, before, champion, period))
        frozen.append(_metric(world, settings, first, first, period))
        every.append(_metric(world, settings, max(first, period.shift(-2)), period.shift(-1), period))
        before = champion
        retrain, finding = rule(facts(world, settings, champion, period), settings, findings)
        findings.append(finding)
        if retrain:
            retrains += 1
            if _passes(world, settings, period, champion):
                champion, promotions = period, promotions + 1
    return Year(fmean(live), fmean(frozen), fmean(every), retrains, promotions)


def _metric(world: World, settings: Params, old: Period, new: Period, period: Period) -> float:
    rows = world.rows[period]
    scores = blend(settings, rows, world.model(settings, old)[0].scorer, world.model(settings, new)[0].scorer, period)
    mask = rows[settings.columns.target].notna().to_numpy()
    return float(metrics.measure(settings.gate.metric, training.labels_of(rows[mask], settings), scores.take(mask))[0])


def _passes(world: World, settings: Params, as_of: Period, champion: Period) -> bool:
    (candidate, parts, _), (incumbent, theirs, _) = world.model(settings, as_of), world.model(settings, champion)
    rows = parts.holdout[parts.holdout[settings.columns.time] >= max(parts.cut, theirs.cut)]
    truth = training.labels_of(rows, settings)
    return gate.evaluate_gate(
        settings.gate, truth, candidate.scorer.score(rows), incumbent.scorer.score(rows), slices=rows
    ).passed


def variant(settings: Params, **changes: object) -> Params:
    """*settings* with other values, named like ``monitor__drift__impact``."""
    data = settings.model_dump(mode="json", by_alias=True)
    for name, value in changes.items():
        *path, last = name.split("__")
        place = data
        for part in path:
            place = place[part]
        place[last] = value
    return Params.model_validate(data)


def main() -> None:
    """Print the table."""
    settings = params.load(ROOT)
    schema = Schema.loads((ROOT / "schema.yaml").read_text())
    world = World(settings, schema, settings.first.shift(11))
    cases: list[tuple[str, Params, Rule]] = [("as in params.yaml", settings, ours)]
    cases += [(f"impact {v}", variant(settings, monitor__drift__impact=v), ours) for v in (0.05, 0.08, 0.12, 0.15)]
    cases += [(f"prediction {v}", variant(settings, monitor__drift__prediction=v), ours) for v in (0.2, 0.5)]
    cases += [(f"max_drop {v}", variant(settings, monitor__quality__max_drop=v), ours) for v in (0.03, 0.07)]
    cases += [("drift only", variant(settings, monitor__quality__max_drop=9), ours),
              ("quality only", variant(settings, monitor__drift__impact=99, monitor__drift__prediction=99), ours),
              ("persist 2 of 3", variant(settings, monitor__persist="2 of 3"), ours)]  # fmt: skip
    cases += [(f"{s:.0%} of the columns drifted", settings, share_of_columns(s)) for s in (0.3, 0.5)]
    cases += [(f"holdout {v}", variant(settings, train__holdout=v), ours) for v in ("10d", "14d", 1)]
    print(
        "| rule | mean | never retrained | every period | gain | retrains | promoted |\n|---|---|---|---|---|---|---|"
    )
    for name, given, rule in cases:
        year = live_through(world, given, rule)
        print(f"| {name} | {year.live:.4f} | {year.frozen:.4f} | {year.every:.4f} | {year.gain:.0%} "
              f"| {year.retrains} | {year.promotions} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
