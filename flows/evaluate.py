"""Evaluate: the candidate and the champion on the very same rows, newer than what either learned from."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

import pandas as pd
from prefect import flow, task
from prefect.runtime import flow_run

from operations.context import ProjectContext, load_context, short
from stores.ledger import GateRecord, LiveRelease
from stores.releases import bundle
from stores.releases.backend import load_scorer
from stores.releases.bundle import Bundle
from tasks import dataset, orchestrator, reports, tracking
from tasks.retries import RETRIED
from tasks.tracking import CandidateArtifacts
from trimtab.evaluation import gate
from trimtab.evaluation.gate import GateResult
from trimtab.evaluation.metrics import Interval
from trimtab.model import training
from trimtab.model.candidate import PROFILE_FILE, Profile
from trimtab.model.release import MODEL
from trimtab.model.scoring import Scorer, Scores

fetch_candidate = task(name="fetch-candidate", **RETRIED)(tracking.fetch_candidate)
log_verdict = task(name="log-verdict", **RETRIED)(tracking.log_gate_result)
report_performance = task(name="report-performance", **RETRIED)(reports.performance_report)


def _name() -> str:
    return f"evaluate-{short(flow_run.parameters.get('run_id'))}"


@flow(flow_run_name=_name)
def evaluate(run_id: str) -> bool:
    """Judge a candidate; whether it passed the gate. Judging the same pair again gives the same verdict.

    Args:
        run_id: MLflow run of a candidate, as train gives it
    """
    ctx = load_context()
    drafted = fetch_candidate(ctx.tracking, run_id, cache=ctx.cache)
    live = ctx.ledger.live()
    champion = ctx.releases.get(live.champion) if live else None
    if (role := role_of(ctx, drafted, live)) is not None:
        verdict = unchanged(ctx, drafted, role)
        page = None
    else:
        rows = fresh_rows(ctx, drafted, champion)
        truth = training.labels_of(rows, ctx.params)
        allow = ctx.settings.trusted_types
        new = scorer_of(drafted, allow).score(rows)
        old = load_scorer(champion, allow=allow).score(rows) if champion else None
        verdict = gate.evaluate_gate(ctx.params.gate, truth, new, old, slices=rows)
        page = report_performance(
            truth, answers(new), task=ctx.params.project.task, period=drafted.paper.as_of,
            reference=(truth, answers(old)) if old else None,
        )  # fmt: skip
    record(ctx, drafted, champion, verdict)
    log_verdict(
        ctx.tracking, run_id, passed=verdict.passed, reason=verdict.reason, evidence=verdict.evidence(), report=page
    )
    show(ctx, run_id, verdict)
    return verdict.passed


def role_of(ctx: ProjectContext, drafted: CandidateArtifacts, live: LiveRelease | None) -> str | None:
    """Which of those that are live the candidate is over again; None when it is another model."""
    if live is None:
        return None
    for role, digest in (("champion", live.champion), ("release on trial", live.challenger)):
        if digest is not None:
            known = ctx.releases.get(digest).manifest.model_digest
            if known == drafted.paper.model_digest:
                return role
    return None


def unchanged(ctx: ProjectContext, drafted: CandidateArtifacts, role: str) -> GateResult:
    """The verdict on a candidate that is live already."""
    known = drafted.paper.metrics[ctx.params.gate.metric]
    same = Interval(known, known, known)
    reason = f"the candidate is the same model as the {role}: there is nothing to release"
    return GateResult(False, reason, ctx.params.gate.metric, drafted.paper.rows_holdout, same, same, None)


def fresh_rows(ctx: ProjectContext, drafted: CandidateArtifacts, champion: Bundle | None) -> pd.DataFrame:
    """Labelled rows of the candidate's dataset that neither model learned from. Raises NotEnoughData."""
    cuts = [drafted.paper.cut]
    if champion:
        cuts.append(Profile.model_validate_json(champion.read(PROFILE_FILE)).cut)
    rows = dataset.read(ctx.workspace, drafted.paper.dataset, last=drafted.paper.as_of, remote=ctx.remote)
    columns = ctx.params.columns
    fresh = rows[(rows[columns.time] >= pd.Timestamp(max(cuts))) & rows[columns.target].notna()]
    if fresh.empty:
        raise training.NotEnoughData(
            f"no labelled rows from {max(cuts)} on in the data of {drafted.paper.as_of}: the champion has learned from "
            "newer data than this candidate was made for; train with a newer as_of"
        )
    return fresh.sort_values([columns.time, columns.id], ignore_index=True)


def scorer_of(drafted: CandidateArtifacts, allow: Collection[str] = ()) -> Scorer:
    """The candidate's model, ready to answer; nothing is loaded that is not vouched for."""
    paper = drafted.paper
    content = (drafted.folder / MODEL).read_bytes()
    model = bundle.load_model(content, digest=paper.model_digest, trusted=paper.trusted_types, allow=allow)
    return Scorer(model, task=paper.task, features=paper.features, classes=paper.classes)


def answers(scores: Scores) -> object:
    """What a report compares with the truth: labels for multiclass, the number otherwise."""
    return list(scores.labels) if scores.labels is not None else scores.prediction


def record(ctx: ProjectContext, drafted: CandidateArtifacts, champion: Bundle | None, verdict: GateResult) -> None:
    """The verdict into the ledger, named by what was compared."""
    against = champion.digest if champion else None
    compared = f"{drafted.run_id}|{against}|{ctx.params.gate.model_dump_json()}|{verdict.rows}"
    ctx.ledger.record_gate(
        GateRecord(
            id=hashlib.sha256(compared.encode()).hexdigest(), run_id=drafted.run_id, champion=against,
            passed=verdict.passed, reason=verdict.reason, evidence=verdict.evidence(),
        )
    )  # fmt: skip


def show(ctx: ProjectContext, run_id: str, verdict: GateResult) -> None:
    """The verdict for people, on the run's page."""
    lines = [f"## {'Passed' if verdict.passed else 'Failed'}", "", verdict.reason]
    if verdict.slices:
        lines += ["", "| slice | rows | champion | candidate | difference (interval) | |", "|---|---|---|---|---|---|"]
        lines += [
            f"| {s.column} = {s.value} | {s.rows:,} | {s.champion:.4f} | {s.candidate:.4f} "
            f"| {s.gain.value:+.4f} ({s.gain.low:+.4f} to {s.gain.high:+.4f}) | {'harmed' if s.harmed else ''} |"
            for s in verdict.slices
        ]
    lines += ["", f"[The candidate's run in MLflow]({tracking.run_url(ctx.tracking, run_id)})"]
    orchestrator.show_markdown("gate", "\n".join(lines), about="The gate's verdict on a candidate")
    print(verdict.reason)
