"""Validate a landed batch: find it, apply the schema, put the rows into the dataset, and record and announce it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from prefect import task

from operations import datasets
from operations.context import NotSetUp, ProjectContext
from stores import batches
from stores.ledger import Landing, ValidationRecord
from tasks import dataset, orchestrator, reports
from tasks.best_effort import best_effort
from trimtab.data import schema
from trimtab.data.markdown_text import as_cell
from trimtab.data.periods import Period
from trimtab.data.schema import Schema, ValidationResult

if TYPE_CHECKING:
    import pandas as pd

BRING_SCHEMA: Final = (
    "run ingest once where the project is worked on, review the schema.yaml that it infers, and bring it here with the "
    "project (commit it, into the image or the folder that is mounted)"
)
summarise = task(name="summarise")(reports.summary_report)


def work_of(landing: Landing) -> str:
    """The ledger's name for the work of validating a landing: its number, as the same rows may land again."""
    return f"validate:{landing.period}:{landing.number}"


def find_landed(ctx: ProjectContext, period: str, digest: str | None) -> batches.LandedBatch:
    """The batch with this digest, or the last landing: from disk, or from the dataset when it landed elsewhere.

    Raises NothingLanded.
    """
    last = ctx.ledger.landing(period) if digest is None else None
    wanted = digest or (last.digest if last else None)
    try:
        return batches.landed(ctx.workspace, period, wanted)
    except batches.NothingLanded:
        if wanted is None:
            raise
        try:
            return batches.read(period, wanted, datasets.fetch_file(ctx, f"landed/{period}/{wanted}.parquet"))
        except dataset.NoRows as error:
            raise batches.NothingLanded(f"no batch {wanted} of {period} has landed: run ingest for it first") from error


def load_schema(ctx: ProjectContext, rows: pd.DataFrame, period: Period) -> Schema:
    """The project's schema; inferred from *rows*, the batch of *period*, and written down when there is none yet.

    Raises NotSetUp where the file cannot be kept, because a schema that each run infers for itself refuses nothing,
    where it is missing although earlier batches were validated, and where *rows* are no batch to infer one from: what
    a header without rows, or rows of another period, would give refuses the good batches that follow.
    """
    path = ctx.root / "schema.yaml"
    if path.exists():
        return ctx.schema
    if ctx.ledger.validations():
        raise NotSetUp(f"{path} is missing, by which earlier batches were judged: {BRING_SCHEMA}")
    rules = schema.infer_schema(rows, ctx.params)
    if (refusal := schema.validate_batch(rows, rules, ctx.params, period).refusal) is not None:
        raise NotSetUp(
            f"no {path.name} is inferred from the batch of {period}, as it is not a good one: {refusal}; mend the "
            "source and ingest the period again, or write the file by hand"
        )
    try:
        path.write_text(rules.dumps())
    except OSError as error:
        raise NotSetUp(f"{path} is missing and cannot be written ({error.strerror}): {BRING_SCHEMA}") from error
    print(f"Inferred {path.name} from {len(rows)} rows: review it and commit it.")
    return ctx.schema


def add_to_dataset(ctx: ProjectContext, period: str, digest: str, checked: ValidationResult) -> str:
    """Put accepted and quarantined rows into the next dataset version; its hash."""
    good, bad, is_accepted = len(checked.good), len(checked.bad), checked.refusal is None
    made = datasets.advance(
        ctx, _write_files(ctx, period, digest, checked), period=period,
        cause="accepted" if is_accepted else "quarantined",
        message=f"{'Accept' if is_accepted else 'Quarantine'} {period}: {good} good rows, {bad} bad",
    )  # fmt: skip
    return made.hash


def _write_files(ctx: ProjectContext, period: str, digest: str, checked: ValidationResult) -> dict[str, Path | None]:
    """Write accepted and quarantined rows to files below `data/`; None for a file that has to go."""
    batches.quarantine(ctx.workspace, period, digest, checked.bad)
    bad = None if checked.bad.empty else batches.quarantined(ctx.workspace, period, digest)
    files: dict[str, Path | None] = {f"quarantined/{period}/{digest}.parquet": bad}
    if checked.refusal is None:
        batches.accept(ctx.workspace, period, checked.good)
        files[f"accepted/{period}.parquet"] = batches.accepted(ctx.workspace, period)
    return files


def record(
    ctx: ProjectContext, period: str, digest: str, rules: Schema, checked: ValidationResult, version: str
) -> ValidationRecord:
    """Record the result in the ledger."""
    good, bad = len(checked.good), len(checked.bad)
    reason = checked.refusal or (f"{good} rows accepted" + (f", {bad} quarantined" if bad else ""))
    if checked.warnings:
        reason += "; unusual: " + ", ".join(f"{what} ({rows} rows)" for what, rows in checked.warnings.items())
    result = ValidationRecord(
        period=period, digest=digest, schema=rules.digest, accepted=checked.refusal is None, reason=reason,
        rows_good=good, rows_bad=bad,
        evidence={"reasons": dict(list(checked.reasons.items())[:50]), "dataset": version},
    )  # fmt: skip
    ctx.ledger.record_validation(result)
    return result


def finish(ctx: ProjectContext, landing: Landing | None, result: ValidationRecord) -> None:
    """Record that the landing is validated, if the batch is still the last one that landed."""
    if landing is not None and landing.digest == result.digest:
        outcome = "accepted" if result.accepted else "quarantined"
        ctx.ledger.record_outcome(work_of(landing), outcome, owner=orchestrator.current_run_id())


def announce(ctx: ProjectContext, result: ValidationRecord) -> None:
    """Emit the event of an accepted batch, which starts monitoring, or of a quarantined one, with an alert."""
    fact = f"{result.period}-{result.digest[:16]}-{result.schema[:8]}"
    payload: dict[str, Any] = {"period": result.period, "batch": result.digest, "reason": result.reason}
    if result.accepted:
        ctx.emit("trimtab.batch.accepted", id=fact, payload=payload)
        return
    ctx.emit("trimtab.batch.quarantined", id=fact, payload=payload)
    message = f"the batch of {result.period} was quarantined: {result.reason}. The live model goes on."
    ctx.raise_alert(f"batch:{fact}", kind="batch quarantined", message=message, evidence=payload)


@best_effort("the batch's page")
def show(ctx: ProjectContext, result: ValidationRecord, checked: ValidationResult) -> None:
    """Show a table of reasons and Evidently's summary of the accepted rows on the flow run's page."""
    lines = [f"**{result.period}** {'accepted' if result.accepted else 'quarantined'}: {result.reason}"]
    if checked.reasons:
        lines += ["", "| reason | rows |", "|---|---|"]
        lines += [f"| {as_cell(reason)} | {count} |" for reason, count in list(checked.reasons.items())[:20]]
    if result.accepted:
        with best_effort("Evidently's summary of the batch"):
            columns = ctx.params.columns
            page = summarise(checked.good, numbers=columns.number, categories=columns.category, period=result.period)
            address = ctx.save_report(f"batch-{result.period}-{result.digest[:12]}.html", page)
            lines += ["", f"Data summary: `{address}`"]
    orchestrator.show_markdown("batch", "\n".join(lines), about=f"Batch of {result.period}")
