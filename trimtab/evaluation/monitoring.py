"""The monitoring decision for a period: `none`, `watch`, `retrain` or `block`.

`tasks.reports` measures distances with Evidently. Here they are weighted by feature importance, so that a column that
always drifts and does not matter to the model does not cause retrains. Missing values and new categories, which the
distances do not cover, are measured here. Nothing here reads a clock: equal facts give an equal decision with an equal
id.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, field_validator

from trimtab.config.sections import MonitorConfig
from trimtab.data.features import Feature
from trimtab.evaluation.metrics import LOWER_IS_BETTER

Action = Literal["none", "watch", "retrain", "block"]


class Quality(BaseModel):
    """The live model's metric in a period, and its value at release."""

    model_config = ConfigDict(frozen=True)

    metric: str
    live: float
    promised: float
    labels: int

    @property
    def drop(self) -> float:
        """How much worse the metric is than at release; negative when better. For errors, which have the unit of the
        target or none, it is a share of what was promised; for the others, which lie between 0 and 1, a difference."""
        if self.metric in LOWER_IS_BETTER:
            worse = self.live - self.promised
            return worse / abs(self.promised) if self.promised else (math.inf if worse > 0 else 0.0)
        return self.promised - self.live


class Facts(BaseModel):
    """What was measured of a release in a period. Distances have no unit; shares lie between 0 and 1."""

    model_config = ConfigDict(frozen=True)

    period: str
    release: str
    rows: int
    distances: dict[str, float] = Field({}, description="per feature, from Evidently; effect sizes")
    importances: dict[str, float] = {}
    prediction_distance: float | None = None
    null_gain: dict[str, float] = Field({}, description="share of missing values beyond the reference's")
    unseen: dict[str, float] = Field({}, description="share of rows with a category that the reference lacks")
    is_constant: bool = Field(False, description="every prediction is the same number")
    quality: Quality | None = Field(None, description="None until there are enough labels")

    @field_validator("distances", "null_gain", "unseen")
    @classmethod
    def _measured(cls, values: dict[str, float]) -> dict[str, float]:
        """Drop values that are not finite: comparisons with nan are false and would hide the other columns."""
        return {name: value for name, value in values.items() if math.isfinite(value)}

    @field_validator("prediction_distance")
    @classmethod
    def _known(cls, value: float | None) -> float | None:
        return value if value is not None and math.isfinite(value) else None

    def impact(self) -> float:
        """Return the mean distance weighted by importance: how far the model's inputs moved where the model depends on
        them.

        >>> Facts(period="2013-03", release="r", rows=1, distances={"a": 0.5}, importances={"a": 0.8}).impact()
        0.4
        """
        return math.fsum(self.importances.get(name, 0.0) * distance for name, distance in self.distances.items())

    def ranked(self) -> list[str]:
        """Return the features by importance times distance, largest first."""
        return sorted(self.distances, key=lambda name: (-self.importances.get(name, 0.0) * self.distances[name], name))

    def drifted(self, threshold: float) -> list[str]:
        """Return the features with a distance of at least *threshold*, those with the most impact first."""
        return [name for name in self.ranked() if self.distances[name] >= threshold]


class PeriodFinding(BaseModel):
    """What one period shows, before the question whether it persists."""

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
    """The decision for a period: the *action*, its *cause* in words, the facts it rests on, and its *id*."""

    model_config = ConfigDict(frozen=True)

    id: str
    action: Action
    cause: str
    kind: Literal["none", "data", "drift", "quality", "drift and quality"]
    facts: Facts
    finding: PeriodFinding


def missing_and_unseen(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    features: Sequence[Feature],
    levels: Mapping[str, Collection[str]],
) -> tuple[dict[str, float], dict[str, float]]:
    """Return two dicts of shares in 0 to 1, per feature and per category feature.

    The first has the increase in missing values over *reference* (negative for a decrease), the second the share of
    rows of *current* whose value is none of the category's *levels*; a feature without any value in *reference* is left
    out, as the model ignores it. The frames may have more columns than *features*. Raises KeyError when one lacks a
    feature.
    """
    gained = {f.name: float(current[f.name].isna().mean() - reference[f.name].isna().mean()) for f in features}
    unseen = {
        f.name: float((~current[f.name].isin(list(levels[f.name])) & current[f.name].notna()).mean())
        for f in features
        if f.kind == "category" and reference[f.name].notna().any()
    }
    return gained, unseen


def find_violations(facts: Facts, rules: MonitorConfig) -> PeriodFinding:
    """Compare one period's facts with the thresholds in *rules*; each violation is a sentence."""
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
    rules: MonitorConfig,
    *,
    earlier: Sequence[PeriodFinding] = (),
    periods_since_retrain: int | None = None,
    earlier_requests: Sequence[str] = (),
) -> MonitoringDecision:
    """Return the decision for *facts*, given the findings of *earlier* periods, oldest first.

    - `none`: fewer than ``monitor.min_rows`` rows, or nothing moved that matters.
    - `block`: the data are broken. A model must not learn from them; a person has to look.
    - `retrain`: the newest period and at least k of the last n periods of this release violate (``monitor.persist``),
      and the last retrain is more than ``monitor.cooldown`` periods ago. If an earlier decision for this period
      (*earlier_requests*, ids) requested a retrain, later labels do not request another one.
    - `watch`: something moved, and the conditions for a retrain do not hold.

    Raises pydantic's ValidationError for invalid facts.
    """
    facts = Facts.model_validate(facts.model_dump())  # model_copy does not validate
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


def decision_id(facts: Facts, rules: MonitorConfig) -> str:
    """Return the decision's id. Equal facts and rules give an equal id."""
    content: Mapping[str, Any] = {"facts": facts.model_dump(), "rules": rules.model_dump()}
    text = json.dumps(_rounded(content), sort_keys=True, default=str)
    return f"{facts.period}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _rounded(value: Any) -> Any:
    """Round floats to 9 significant digits; further ones may differ between machines."""
    if isinstance(value, Mapping):
        return {str(key): _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return float(f"{value:.9g}") if isinstance(value, float) else value
