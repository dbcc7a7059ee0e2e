"""Validate: a landed batch is accepted, and becomes part of the dataset, or is quarantined with its reasons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from prefect import flow, task

from operations import datasets
from operations.context import NotSetUp, ProjectContext, load_context
from stores import batches
from stores.ledger import Landing, ValidationRecord
from tasks import alerts, dataset, orchestrator, reports
from trimtab.data import schema
from trimtab.data.schema import Schema, ValidationResult

BRING_SCHEMA = (
    "run ingest once where the project is worked on, review the schema.yaml that it infers, and bring it here with the "
    "project (commit it, into the image or the folder that is mounted)"
)
summarise = task(name="summarise")(reports.summary_report)


@flow(flow_run_name="validate-{period}")
def validate(period: str, batch: str | None = None) -> bool:
    """Hold a landed batch against the project's schema; whether it was accepted.

    Args:
        period: like 2013-03
        batch: digest of a landed batch; empty: the one that landed last
    """
    ctx = load_context()
    wanted = ctx.params.parse_period(period)
    last = ctx.ledger.landing(period)
    landed = landed_batch(ctx, period, batch)
    rows = pd.read_parquet(landed.path)
    rules = rules_of(ctx, rows)
    checked = schema.validate_batch(rows, rules, ctx.params, wanted)
    is_accepted = checked.refusal is None
    version = datasets.advance(
        ctx, laid_out(ctx, period, landed.digest, checked),
        period=period, cause="accepted" if is_accepted else "quarantined",
        message=f"{'Accept' if is_accepted else 'Quarantine'} {period}: {len(checked.good)} good rows, "
        f"{len(checked.bad)} bad",
    )  # fmt: skip
    check = record(ctx, period, landed.digest, rules, checked, version.hash)
    announce(ctx, check)  # before the pages are drawn: what follows need not wait for them
    if last is not None and last.digest == landed.digest:
        ctx.ledger.record_outcome(
            work_of(last), "accepted" if is_accepted else "quarantined", owner=orchestrator.current_run_id()
        )
    show(ctx, check, checked)
    return is_accepted


def work_of(landing: Landing) -> str:
    """What is owed for a landing, by the number of it: the same rows may land again after others."""
    return f"validate:{landing.period}:{landing.number}"


def landed_batch(ctx: ProjectContext, period: str, digest: str | None) -> batches.LandedBatch:
    """The batch called *digest*, or the one that landed last: from disk, or from the dataset where it landed
    elsewhere. Raises NothingLanded."""
    last = ctx.ledger.landing(period) if digest is None else None
    wanted = digest or (last.digest if last else None)
    try:
        return batches.landed(ctx.workspace, period, wanted)
    except batches.NothingLanded:
        if wanted is None:
            raise
        try:
            return batches.read(period, wanted, datasets.bring(ctx, f"landed/{period}/{wanted}.parquet"))
        except dataset.NoRows as error:
            raise batches.NothingLanded(f"no batch {wanted} of {period} has landed: run ingest for it first") from error


def laid_out(ctx: ProjectContext, period: str, digest: str, checked: ValidationResult) -> dict[str, Path | None]:
    """The rows on disk, accepted and quarantined ones apart; the files that this concerns, None for one that is not
    (or no longer) there."""
    batches.quarantine(ctx.workspace, period, digest, checked.bad)
    files: dict[str, Path | None] = {
        f"quarantined/{period}/{digest}.parquet": None if checked.bad.empty else batches.quarantined(
            ctx.workspace, period, digest
        ),
    }  # fmt: skip
    if checked.refusal is None:
        batches.accept(ctx.workspace, period, checked.good)
        files[f"accepted/{period}.parquet"] = batches.accepted(ctx.workspace, period)
    return files


def rules_of(ctx: ProjectContext, rows: pd.DataFrame) -> Schema:
    """The project's schema; inferred from *rows* and written down when there is none yet. Raises NotSetUp where it
    could not stay: a schema that each run infers for itself refuses nothing."""
    path = ctx.root / "schema.yaml"
    if path.exists():
        return ctx.schema
    if ctx.ledger.validations():
        raise NotSetUp(f"{path} is missing, by which earlier batches were judged: {BRING_SCHEMA}")
    try:
        path.write_text(schema.infer_schema(rows, ctx.params).dumps())
    except OSError as error:
        raise NotSetUp(f"{path} is missing and cannot be written ({error.strerror}): {BRING_SCHEMA}") from error
    print(f"Inferred {path.name} from {len(rows)} rows: review it and commit it.")
    return ctx.schema


def record(
    ctx: ProjectContext, period: str, digest: str, rules: Schema, checked: ValidationResult, version: str
) -> ValidationRecord:
    """The conclusion into the ledger."""
    good, bad = len(checked.good), len(checked.bad)
    reason = checked.refusal or (f"{good} rows accepted" + (f", {bad} quarantined" if bad else ""))
    check = ValidationRecord(
        period=period, digest=digest, schema=rules.digest, accepted=checked.refusal is None, reason=reason,
        rows_good=good, rows_bad=bad,
        evidence={"reasons": dict(list(checked.reasons.items())[:50]), "dataset": version},
    )  # fmt: skip
    ctx.ledger.record_validation(check)
    return check


def show(ctx: ProjectContext, check: ValidationRecord, checked: ValidationResult) -> None:
    """What a person wants to see of it: a table of reasons, and Evidently's summary of the accepted rows."""
    lines = [f"**{check.period}** {'accepted' if check.accepted else 'quarantined'}: {check.reason}"]
    if checked.reasons:
        lines += ["", "| reason | rows |", "|---|---|"]
        lines += [f"| {reason} | {count} |" for reason, count in list(checked.reasons.items())[:20]]
    if check.accepted:
        columns = ctx.params.columns
        page = summarise(checked.good, numbers=columns.number, categories=columns.category, period=check.period)
        kept = ctx.save_report(f"batch-{check.period}-{check.digest[:12]}.html", page)
        lines += ["", f"Data summary: `{kept}`"]
    orchestrator.show_markdown("batch", "\n".join(lines), about=f"Batch of {check.period}")


def announce(ctx: ProjectContext, check: ValidationRecord) -> None:
    """Tell the world: accepted starts monitoring of the period, quarantined alerts."""
    project = ctx.params.project.name
    fact = f"{check.period}-{check.digest[:16]}-{check.schema[:8]}"
    payload: dict[str, Any] = {"period": check.period, "batch": check.digest, "reason": check.reason}
    if check.accepted:
        orchestrator.emit("trimtab.batch.accepted", project=project, id=fact, payload=payload)
        return
    orchestrator.emit("trimtab.batch.quarantined", project=project, id=fact, payload=payload)
    message = f"{project}: the batch of {check.period} was quarantined: {check.reason}. The live model goes on."
    alerts.raise_alert(
        ctx.ledger, ctx.alert_channels, id=f"batch:{fact}", kind="batch quarantined", message=message, evidence=payload
    )
