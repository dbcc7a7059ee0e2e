"""Decide what a period asks for: facts in, one of `none`, `watch`, `retrain`, `block` out.

Measuring distances is Evidently's business (`tasks.reports`); here they are weighed. A column counts by what it is
worth to the live model, so that weather that always drifts and never matters does not call for a retrain every
month. What Evidently's distances do not see, missing values and categories the model never met, is measured here.
Nothing here reads a clock: the same facts give the same decision, with the same id."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, field_validator

from trimtab.config.params import Monitor
from trimtab.data.features import Feature
from trimtab.evaluation.metrics import LOWER_IS_BETTER

Action = Literal["none", "watch", "retrain", "block"]


class Quality(BaseModel):
    """The live model's own result in a period, and what it promised when it was released."""

    model_config = ConfigDict(frozen=True)

    metric: str
    live: float
    promised: float
    labels: int

    @property
    def drop(self) -> float:
        """How much worse than promised; negative when better."""
        return self.live - self.promised if self.metric in LOWER_IS_BETTER else self.promised - self.live


class Facts(BaseModel):
    """What was measured of a release in a period. Distances have no unit; shares lie in 0 to 1."""

    model_config = ConfigDict(frozen=True)

    period: str
    release: str
    rows: int
    distances: dict[str, float] = Field({}, description="per feature, from Evidently; effect sizes")
    importances: dict[str, float] = {}
    prediction_distance: float | None = None
    null_gain: dict[str, float] = Field({}, description="share of missing values beyond the reference's")
    unseen: dict[str, float] = Field({}, description="share of rows with a category the model never met")
    is_constant: bool = Field(False, description="every prediction is the same number")
    quality: Quality | None = Field(None, description="None until enough labels are in")

    @field_validator("distances", "null_gain", "unseen")
    @classmethod
    def _measured(cls, values: dict[str, float]) -> dict[str, float]:
        """What could not be measured says nothing, and must not hide what could: nan compares false with all."""
        return {name: value for name, value in values.items() if math.isfinite(value)}

    @field_validator("prediction_distance")
    @classmethod
    def _known(cls, value: float | None) -> float | None:
        return value if value is not None and math.isfinite(value) else None

    def impact(self) -> float:
        """Importance-weighted mean distance: how far the model's inputs moved where it looks."""
        return math.fsum(self.importances.get(name, 0.0) * distance for name, distance in self.distances.items())

    def ranked(self) -> list[str]:
        """Features by what their move may do to the model, the most first."""
        return sorted(self.distances, key=lambda name: (-self.importances.get(name, 0.0) * self.distances[name], name))

    def drifted(self, threshold: float) -> list[str]:
        """Features at or beyond *threshold*, those that matter most first."""
        return [name for name in self.ranked() if self.distances[name] >= threshold]


class PeriodFinding(BaseModel):
    """What one period shows by itself, before asking whether it persists."""

    model_config = ConfigDict(frozen=True)

    period: str
    release: str
    broken: tuple[str, ...] = ()
    drift: tuple[str, ...] = ()
    quality: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def violates(self) -> bool:
        """Whether this period asks for a retrain."""
        return bool(self.drift or self.quality)


class MonitoringDecision(BaseModel):
    """The decision for a period: an *action*, its *cause* in words, what it was judged from, and its *id*."""

    model_config = ConfigDict(frozen=True)

    id: str
    action: Action
    cause: str
    kind: Literal["none", "data", "drift", "quality", "drift and quality"]
    facts: Facts
    finding: PeriodFinding


def missing_and_unseen(
    reference: pd.DataFrame, current: pd.DataFrame, features: Sequence[Feature]
) -> tuple[dict[str, float], dict[str, float]]:
    """Per feature the share of missing values gained over *reference*, and per category the share of rows of
    *current* whose value *reference* does not have. Frames may have more columns than *features*."""
    gained = {f.name: float(current[f.name].isna().mean() - reference[f.name].isna().mean()) for f in features}
    unseen = {
        f.name: float((~current[f.name].isin(reference[f.name].dropna().unique()) & current[f.name].notna()).mean())
        for f in features
        if f.kind == "category"
    }
    return gained, unseen


def find_violations(facts: Facts, rules: Monitor) -> PeriodFinding:
    """Hold one period's facts against the *rules*, each violation in words."""
    d, q = rules.drift, rules.quality
    gains, strange = sorted(facts.null_gain.items()), sorted(facts.unseen.items())
    broken = [f"{n}: {g:.0%} more missing values" for n, g in gains if g > d.max_null_gain]
    broken += [f"{n}: {s:.0%} of the rows have a category never met" for n, s in strange if s > d.max_unseen]
    if facts.is_constant:
        broken.append("every prediction is the same")
    drifted, impact, distance = facts.drifted(d.threshold), facts.impact(), facts.prediction_distance
    drift, warnings, quality = [], [], []
    if impact >= d.impact:
        drift.append(f"the inputs moved by {impact:.2f} where the model looks, most in {', '.join(facts.ranked()[:3])}")
    if distance is not None and distance >= d.prediction:
        drift.append(f"the predictions moved by {distance:.2f}")
    if drifted and not drift:
        share = len(drifted) / len(facts.distances)
        warnings.append(f"{share:.0%} of the columns drifted, with little weight in the model ({impact:.2f})")
    if facts.quality and facts.quality.labels >= q.min_labels and facts.quality.drop > q.max_drop:
        was, now = facts.quality.promised, facts.quality.live
        quality.append(f"{facts.quality.metric} {now:.3f}, promised {was:.3f}")
    return PeriodFinding(
        period=facts.period, release=facts.release, broken=tuple(broken), drift=tuple(drift),
        quality=tuple(quality), warnings=tuple(warnings),
    )  # fmt: skip


def decide(
    facts: Facts,
    rules: Monitor,
    *,
    earlier: Sequence[PeriodFinding] = (),
    periods_since_retrain: int | None = None,
    earlier_requests: Sequence[str] = (),
) -> MonitoringDecision:
    """What *facts* ask for, given the findings of the periods before, oldest first.

    `block` when the data are broken: a model must not learn from them, a person has to look. `retrain` when the
    newest period and at least k of the last n of this release violate, unless a retrain is at most
    ``monitor.cooldown`` periods ago. A retrain that *earlier_requests* (ids of decisions of this
    period) asked for is not asked for again because more labels came in. `watch` when
    something moved and that is not so. `none` otherwise, and when fewer than ``monitor.min_rows`` rows are there.
    """
    facts = Facts.model_validate(facts.model_dump())  # a copy made by model_copy was not checked
    finding = find_violations(facts, rules)
    k, n = rules.persist
    window = [f for f in earlier if f.release == facts.release and f.period < facts.period][-(n - 1) :] if n > 1 else []
    times = sum(f.violates for f in window) + finding.violates
    is_cooling = periods_since_retrain is not None and periods_since_retrain <= rules.cooldown
    kind: Literal["none", "data", "drift", "quality", "drift and quality"] = "none"
    if finding.violates:
        kind = "drift and quality" if finding.drift and finding.quality else "drift" if finding.drift else "quality"
    why = "; ".join((*finding.drift, *finding.quality))
    id = decision_id(facts, rules)
    action: Action
    if facts.rows < rules.min_rows:
        action, kind, cause = "none", "none", f"{facts.rows} rows are too few to judge: {rules.min_rows} are needed"
    elif finding.broken:
        action, kind, cause = "block", "data", "; ".join(finding.broken)
    elif finding.violates and earlier_requests and id not in earlier_requests:
        action, cause = "watch", f"{why} (retrain earlier_requests for by {earlier_requests[-1]})"
    elif finding.violates and times >= k and not is_cooling:
        action, cause = "retrain", why
    elif finding.violates:
        wait = f"{times} of {n} periods, {k} needed" if times < k else f"retrained {periods_since_retrain} periods ago"
        action, cause = "watch", f"{why} ({wait})"
    elif finding.warnings:
        action, cause = "watch", "; ".join(finding.warnings)
    else:
        action, cause = "none", "nothing moved that matters"
    return MonitoringDecision(id=id, action=action, cause=cause, kind=kind, facts=facts, finding=finding)


def decision_id(facts: Facts, rules: Monitor) -> str:
    """A name for the decision that is the same whenever the same facts are judged by the same rules."""
    content: Mapping[str, Any] = {"facts": facts.model_dump(), "rules": rules.model_dump()}
    text = json.dumps(_rounded(content), sort_keys=True, default=str)
    return f"{facts.period}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _rounded(value: Any) -> Any:
    """Numbers to 9 digits, as the last ones may differ between machines."""
    if isinstance(value, Mapping):
        return {str(key): _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return float(f"{value:.9g}") if isinstance(value, float) else value
