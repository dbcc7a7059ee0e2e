"""Monitor a period: measure what the live release saw in it, decide, and record and announce the decision."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefect import task

from operations.context import ProjectContext
from stores import telemetry
from stores.ledger import DecisionRecord
from stores.releases.bundle import Bundle
from tasks import orchestrator, reports, tracking
from tasks.best_effort import best_effort
from tasks.retries import RETRIED
from trimtab.data.markdown_text import as_cell
from trimtab.data.periods import Period, span
from trimtab.evaluation import metrics, monitoring
from trimtab.evaluation.monitoring import Facts, MonitoringDecision, PeriodFinding, Quality
from trimtab.model.candidate import PROFILE_FILE, Profile

if TYPE_CHECKING:
    import pandas as pd

measure_drift = task(name="measure-drift", **RETRIED)(reports.drift_report)
log_monitoring = task(name="log-monitoring", **RETRIED)(tracking.log_monitoring)


def work_of(period: str, batch: str | None) -> str:
    """The ledger's name for the work of monitoring a period after *batch* was accepted, or on request."""
    return f"monitor:{period}:{batch or 'asked'}"


def answers_of(ctx: ProjectContext, release: Bundle, period: Period) -> pd.DataFrame:
    """The predictions of *release* in *period*, with the labels that have arrived."""
    rule = release.manifest.label_rule.stored()
    seen = telemetry.joined(ctx.telemetry, period.start, period.end, rule=rule)
    return seen[seen["release"] == release.digest].reset_index(drop=True)


def measure(ctx: ProjectContext, release: Bundle, answers: pd.DataFrame, period: Period) -> tuple[Facts, str | None]:
    """Measure *answers* against the rows that the release was made from; the facts, and Evidently's page.

    With fewer rows than `monitor.min_rows` there is nothing to measure, and no page.
    """
    rules, features = ctx.params.monitor, release.manifest.features
    profile = Profile.model_validate_json(release.read(PROFILE_FILE))
    facts = Facts(period=str(period), release=release.digest, rows=len(answers), importances=profile.importances)
    if len(answers) < rules.min_rows:
        return facts, None
    reference = release.reference()
    sample = answers.sample(min(rules.sample, len(answers)), random_state=ctx.params.train.seed).sort_index()
    ranked = sorted(features, key=lambda f: -profile.importances.get(f.name, 0.0))
    found = measure_drift(reference, sample, ranked, threshold=rules.drift.threshold, period=str(period))
    null_gain, unseen = monitoring.missing_and_unseen(reference, answers, features, profile.levels)
    measured = facts.model_copy(
        update={
            "distances": found.distances,
            "prediction_distance": found.prediction_distance,
            "null_gain": null_gain,
            "unseen": unseen,
            "is_constant": bool(answers["prediction"].nunique() == 1),
            "quality": quality(release, answers, profile),
        }
    )
    return measured, found.html


def quality(release: Bundle, answers: pd.DataFrame, profile: Profile) -> Quality | None:
    """The gate's metric on the answers with a label; None when there are none, or it is not defined for them."""
    known = answers[answers["label"].notna()]
    if known.empty:
        return None
    manifest = release.manifest
    value = metrics.measure_recorded(profile.metric, known, task=manifest.task, classes=manifest.classes)
    if value != value:
        return None
    return Quality(metric=profile.metric, live=value, promised=profile.promised, labels=len(known))


def decide(ctx: ProjectContext, facts: Facts, period: Period) -> MonitoringDecision:
    """The decision that follows from the facts and from the decisions for earlier periods."""
    decided = ctx.ledger.decisions()
    before = [d for d in decided if d.period < facts.period]
    newest = {(d.period, d.release): PeriodFinding.model_validate(d.evidence["finding"]) for d in before}
    retrained = [ctx.params.parse_period(d.period) for d in before if d.action == "retrain"]
    requests = [
        d.id for d in decided if d.action == "retrain" and (d.period, d.release) == (facts.period, facts.release)
    ]
    return monitoring.decide(
        facts, ctx.params.monitor, earlier=[newest[key] for key in sorted(newest)],
        periods_since_retrain=len([*span(max(retrained), period)]) - 1 if retrained else None,
        earlier_requests=requests,
    )  # fmt: skip


def record(ctx: ProjectContext, decision: MonitoringDecision) -> None:
    """Record the decision in the ledger."""
    facts = decision.facts
    ctx.ledger.record_decision(
        DecisionRecord(
            id=decision.id, period=facts.period, release=facts.release, action=decision.action,
            cause=decision.cause, evidence={**decision.model_dump(mode="json"), "impact": facts.impact()},
        )
    )  # fmt: skip


def publish(ctx: ProjectContext, decision: MonitoringDecision, page: str | None) -> None:
    """Log the decision to MLflow and show it on the flow run's page. Reconcile logs it when MLflow does not answer."""
    report = None
    with best_effort("the decision in MLflow, until reconcile logs it,"):
        run_id = log(ctx, decision, page)
        report = tracking.run_url(ctx.tracking, run_id, artifact="drift.html") if page else None
    with best_effort("the decision's page"):
        _show(decision, report)


def log(ctx: ProjectContext, decision: MonitoringDecision, page: str | None) -> str:
    """Log the decision to its run in MLflow; the run's id."""
    facts = decision.facts
    measures = {f"distance_{name}": value for name, value in facts.distances.items()} | {"impact": facts.impact()}
    if facts.prediction_distance is not None:
        measures["distance_of_predictions"] = facts.prediction_distance
    if facts.quality is not None:
        measures[f"live_{facts.quality.metric}"] = facts.quality.live
    return log_monitoring(
        ctx.tracking, project=ctx.params.project.name, decision=decision.id,
        tags={"period": facts.period, "release": facts.release, "action": decision.action},
        measures=measures, facts=decision.model_dump(mode="json"), report=page,
    )  # fmt: skip


def decision_of(record: DecisionRecord) -> MonitoringDecision:
    """The decision as it was made, from its record in the ledger."""
    fields = MonitoringDecision.model_fields
    return MonitoringDecision.model_validate({name: v for name, v in record.evidence.items() if name in fields})


def _show(decision: MonitoringDecision, report: str | None) -> None:
    """Show the decision on the flow run's page."""
    facts = decision.facts
    lines = [f"## {decision.action}", "", decision.cause, "",
             f"{facts.rows:,} answers of release {facts.release[:12]}"]  # fmt: skip
    if facts.quality:
        q = facts.quality
        lines += ["", f"{q.metric} **{q.live:.4f}** on {q.labels:,} labels, promised {q.promised:.4f}"]
    if facts.distances:
        lines += ["", "| input | distance | share of importance |", "|---|---|---|"]
        ranked = sorted(facts.distances, key=lambda n: -facts.distances[n] * facts.importances.get(n, 0.0))
        lines += [f"| {as_cell(n)} | {facts.distances[n]:.3f} | {facts.importances.get(n, 0.0):.1%} |" for n in ranked]
    if report:
        lines += ["", f"[Evidently's report]({report})"]
        orchestrator.show_link("drift-report", report, text=f"Drift report of {facts.period}", about=decision.cause)
    orchestrator.show_markdown("decision", "\n".join(lines), about=f"What {facts.period} asks for")
    print(f"{facts.period}: {decision.action}: {decision.cause}")


def announce(ctx: ProjectContext, decision: MonitoringDecision) -> None:
    """Emit the event that starts a retrain, or raise the alert about broken data."""
    facts = decision.facts
    payload = {"decision": decision.id, "period": facts.period, "release": facts.release, "cause": decision.cause}
    if decision.action == "retrain":
        event = "trimtab.quality.degraded" if decision.kind == "quality" else "trimtab.drift.detected"
        ctx.emit(event, id=decision.id, payload=payload)
    if decision.action == "block":
        message = f"the data of {facts.period} look broken, nothing is learned from them: {decision.cause}"
        ctx.raise_alert(f"decision:{decision.id}", kind="data broken", message=message, evidence=payload)
