"""Drift-monitor: what production saw in a period against what the live release was made for, and a decision.

The decision is in the ledger before anybody sees it; the event that follows is only the fast path to retrain."""

from __future__ import annotations

import pandas as pd
from prefect import flow, task

from operations import rollouts
from operations.context import ProjectContext, load_context
from stores import telemetry
from stores.ledger import DecisionRecord
from stores.releases.bundle import Bundle
from tasks import alerts, orchestrator, reports, tracking
from tasks.retries import RETRIED
from trimtab.data.periods import Period
from trimtab.evaluation import metrics, monitoring
from trimtab.evaluation.monitoring import Facts, MonitoringDecision, PeriodFinding, Quality
from trimtab.model.candidate import PROFILE_FILE, Profile
from trimtab.model.scoring import Scores

measure_drift = task(name="measure-drift", **RETRIED)(reports.drift_report)
log_monitoring = task(name="log-monitoring", **RETRIED)(tracking.log_monitoring)

NOT_LIVE = "nothing was live"


@flow(name="drift-monitor", flow_run_name="drift-monitor-{period}")
def drift_monitor(period: str, batch: str | None = None) -> str:
    """Decide what *period* asks for; the action. The same facts again give the same decision, recorded once.

    Args:
        period: like 2013-03
        batch: digest of the accepted batch that asks for this; empty when a person does
    """
    ctx = load_context()
    wanted = ctx.params.parse_period(period)
    work = f"monitor:{period}:{batch or 'asked'}"
    live = ctx.ledger.live()
    if live is None:
        ctx.ledger.record_outcome(work, NOT_LIVE, owner=orchestrator.current_run_id())
        print(f"{NOT_LIVE.capitalize()} yet: there is nothing to watch in {period}.")
        return "none"
    for row, _ in rollouts.unfinished(ctx):  # labels have come in: a late verdict may be due
        rollouts.advance(ctx, row.id)
    live = ctx.ledger.live() or live
    release = ctx.releases.get(live.champion)
    seen = telemetry.joined(ctx.telemetry, wanted.start, wanted.end)
    mine = seen[seen["release"] == release.digest].reset_index(drop=True)
    facts, page = measure(ctx, release, mine, wanted)
    judgement = judge(ctx, facts, wanted)
    report = keep(ctx, judgement, page)
    show(judgement, report)
    announce(ctx, judgement)
    ctx.ledger.record_outcome(
        work, judgement.action, owner=orchestrator.current_run_id(), evidence={"decision": judgement.id}
    )
    return judgement.action


def measure(ctx: ProjectContext, release: Bundle, mine: pd.DataFrame, period: Period) -> tuple[Facts, str | None]:
    """What happened to *release* in *period*: *mine* are its answers with the labels that have arrived."""
    rules, features = ctx.params.monitor, release.manifest.features
    profile = Profile.model_validate_json(release.read(PROFILE_FILE))
    facts = Facts(period=str(period), release=release.digest, rows=len(mine), importances=profile.importances)
    if len(mine) < rules.min_rows:
        return facts, None
    reference = release.reference()
    shown = mine.sample(min(rules.sample, len(mine)), random_state=ctx.params.train.seed).sort_index()
    ranked = sorted(features, key=lambda f: -profile.importances.get(f.name, 0.0))
    found = measure_drift(reference, shown, ranked, threshold=rules.drift.threshold, period=str(period))
    null_gain, unseen = monitoring.missing_and_unseen(reference, mine, features)
    measured = facts.model_copy(
        update={
            "distances": found.distances,
            "prediction_distance": found.prediction_distance,
            "null_gain": null_gain,
            "unseen": unseen,
            "is_constant": bool(mine["prediction"].nunique() == 1),
            "quality": quality(release, mine, profile),
        }
    )
    return measured, found.html


def quality(release: Bundle, mine: pd.DataFrame, profile: Profile) -> Quality | None:
    """The gate's metric on the answers whose labels have arrived; None when there are none, or it is not defined."""
    known = mine[mine["label"].notna()]
    if known.empty:
        return None
    manifest = release.manifest
    truth = known["label"].to_numpy(dtype=object if manifest.task == "multiclass" else float)
    multi = manifest.task == "multiclass"
    scores = Scores(
        manifest.task,
        known["prediction"].to_numpy(dtype=float),
        manifest.classes,
        tuple(known["predicted_label"]) if multi else None,
        pd.DataFrame(known["probabilities"].tolist()).to_numpy(dtype=float) if multi else None,
    )
    value = float(metrics.measure(profile.metric, truth, scores)[0])
    if value != value:
        return None
    return Quality(metric=profile.metric, live=value, promised=profile.promised, labels=len(known))


def judge(ctx: ProjectContext, facts: Facts, period: Period) -> MonitoringDecision:
    """The decision, from the facts and from what was decided for earlier periods."""
    decided = ctx.ledger.decisions()
    before = [d for d in decided if d.period < facts.period]
    newest = {(d.period, d.release): PeriodFinding.model_validate(d.evidence["finding"]) for d in before}
    retrained = [ctx.params.parse_period(d.period) for d in before if d.action == "retrain"]
    since = _distance(max(retrained), period) if retrained else None
    asked = [d.id for d in decided if d.action == "retrain" and (d.period, d.release) == (facts.period, facts.release)]
    return monitoring.decide(
        facts, ctx.params.monitor, earlier=[newest[key] for key in sorted(newest)],
        periods_since_retrain=since, earlier_requests=asked,
    )  # fmt: skip


def _distance(earlier: Period, later: Period) -> int:
    count = 0
    while earlier < later:
        earlier, count = earlier.shift(1), count + 1
    return count


def keep(ctx: ProjectContext, judgement: MonitoringDecision, page: str | None) -> str | None:
    """The decision into the ledger, then the report into MLflow; the address of its page."""
    facts = judgement.facts
    ctx.ledger.record_decision(
        DecisionRecord(
            id=judgement.id, period=facts.period, release=facts.release, action=judgement.action,
            cause=judgement.cause, evidence={**judgement.model_dump(mode="json"), "impact": facts.impact()},
        )
    )  # fmt: skip
    measures = {f"distance_{name}": value for name, value in facts.distances.items()} | {"impact": facts.impact()}
    if facts.prediction_distance is not None:
        measures["distance_of_predictions"] = facts.prediction_distance
    if facts.quality is not None:
        measures[f"live_{facts.quality.metric}"] = facts.quality.live
    run_id = log_monitoring(
        ctx.tracking, project=ctx.params.project.name, decision=judgement.id,
        tags={"period": facts.period, "release": facts.release, "action": judgement.action},
        measures=measures, facts=judgement.model_dump(mode="json"), report=page,
    )  # fmt: skip
    return tracking.run_url(ctx.tracking, run_id, artifact="drift.html") if page else None


def show(judgement: MonitoringDecision, report: str | None) -> None:
    """The decision for people, on the run's page."""
    facts = judgement.facts
    lines = [
        f"## {judgement.action}",
        "",
        judgement.cause,
        "",
        f"{facts.rows:,} answers of release {facts.release[:12]}",
    ]
    if facts.quality:
        q = facts.quality
        lines += ["", f"{q.metric} **{q.live:.4f}** on {q.labels:,} labels, promised {q.promised:.4f}"]
    if facts.distances:
        lines += ["", "| input | distance | share of importance |", "|---|---|---|"]
        ranked = sorted(facts.distances, key=lambda n: -facts.distances[n] * facts.importances.get(n, 0.0))
        lines += [f"| {n} | {facts.distances[n]:.3f} | {facts.importances.get(n, 0.0):.1%} |" for n in ranked]
    if report:
        lines += ["", f"[Evidently's report]({report})"]
        orchestrator.show_link("drift-report", report, text=f"Drift report of {facts.period}", about=judgement.cause)
    orchestrator.show_markdown("decision", "\n".join(lines), about=f"What {facts.period} asks for")
    print(f"{facts.period}: {judgement.action}: {judgement.cause}")


def announce(ctx: ProjectContext, judgement: MonitoringDecision) -> None:
    """The fast path: the event that starts retrain, or the alert that asks for a person."""
    project, facts = ctx.params.project.name, judgement.facts
    payload = {"decision": judgement.id, "period": facts.period, "release": facts.release, "cause": judgement.cause}
    if judgement.action == "retrain":
        event = "trimtab.quality.degraded" if judgement.kind == "quality" else "trimtab.drift.detected"
        orchestrator.emit(event, project=project, id=judgement.id, payload=payload)
    if judgement.action == "block":
        message = f"{project}: the data of {facts.period} look broken, nothing is learned from them: {judgement.cause}"
        alerts.raise_alert(
            ctx.ledger, ctx.alert_channels, id=f"decision:{judgement.id}", kind="data broken", message=message,
            evidence=payload,
        )  # fmt: skip
