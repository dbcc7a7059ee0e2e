"""Ingest: the rows of a period land, are recorded and versioned. Whether they are any good is validate's to say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pandas as pd
from prefect import flow, task
from prefect.runtime import flow_run

from flows.validate import validate
from operations import datasets
from operations.context import ProjectContext, load_context, shared_heartbeat
from stores import batches
from tasks import buckets, dataset, sources
from tasks.buckets import SourceObject
from tasks.retries import RETRIED
from tasks.source_access import BucketAccess, SourceError
from trimtab.data.periods import Period

fetch = task(**RETRIED)(sources.fetch)
read_bucket = task(name="fetch", **RETRIED)(buckets.read)
list_period = task(name="list-objects", **RETRIED)(buckets.list_period_objects)
list_all = task(name="list-objects", **RETRIED)(buckets.list_by_period)


def _name() -> str:
    asked = flow_run.parameters
    return f"ingest-{asked.get('period') or ('changes' if asked.get('changed') else 'next')}"


@flow(flow_run_name=_name)
def ingest(period: str | None = None, and_validate: bool = True, changed: bool = False) -> str:
    """Land the rows of a period; the batch's digest. The same rows again change nothing.

    Args:
        period: like 2013-03; empty: the one after the newest, once its labels are known
        and_validate: go on with validate when the rows have landed
        changed: instead, every complete period whose objects in the source's bucket are new or changed
    """
    ctx = load_context()
    wanted = [ctx.params.parse_period(period)] if period else changed_periods(ctx) if changed else next_period(ctx)
    if not wanted:
        print("No period is complete that has not been ingested: nothing to do.")
        return ""
    dataset.init(ctx.workspace)
    digests, troubles = [], []
    for each in wanted:
        try:
            digests.append(land(ctx, each, and_validate=and_validate))
        except SourceError as error:  # of this period; the others' rows need not wait for its objects to be mended
            troubles.append(error)
    if troubles:
        raise SourceError("; ".join(map(str, troubles))) from troubles[0]
    return " ".join(filter(None, digests))


def land(ctx: ProjectContext, wanted: Period, *, and_validate: bool) -> str:
    """One period's rows; the batch's digest, empty when nothing has come yet."""
    target, period = ctx.params.source.target, str(wanted)
    if (known := unchanged(ctx, wanted)) is not None:
        digest, news = known, "unchanged in the bucket"
    else:
        rows, objects = rows_of(ctx, wanted)
        if sources.is_bucket_target(target) and not objects:
            print(f"{period}: no object in {target} yet: nothing landed.")
            return ""
        batch = batches.land(ctx.workspace, period, rows)
        name = batch.path.relative_to(ctx.workspace / "data").as_posix()
        message = f"Land {period}: {batch.rows} rows"
        datasets.advance(ctx, {name: batch.path}, period=period, cause="landed", message=message)
        is_new = ctx.ledger.record_batch(period, batch.digest, rows=batch.rows, source=target)
        # Last: whoever finds this landing has no reason to do any of it again.
        ctx.ledger.record_landing(period, batch.digest, source=target, objects=buckets.object_records(objects))
        digest, news = batch.digest, f"{batch.rows} rows{'' if is_new else ', as before'}"
    print(f"{period}: landed as {digest[:12]}: {news}")
    if and_validate:
        with shared_heartbeat():
            validate(period, digest)
            # Whoever landed newer rows meanwhile may have validated them before these: the newest come last.
            while (newest := ctx.ledger.landing(period)) is not None and newest.digest != digest:
                digest = newest.digest
                validate(period, digest)
    return digest


def rows_of(ctx: ProjectContext, wanted: Period) -> tuple[pd.DataFrame, list[SourceObject]]:
    """The rows, and the objects that they are from if the source is a bucket."""
    target = ctx.params.source.target
    if sources.is_bucket_target(target):
        return read_bucket(target, wanted, access(ctx))
    return fetch(ctx.root, target, wanted), []


def unchanged(ctx: ProjectContext, wanted: Period) -> str | None:
    """The digest of the batch that the objects of *wanted* have landed as already; None when they have not."""
    target, last = ctx.params.source.target, ctx.ledger.landing(str(wanted))
    if last is None or last.source != target or not sources.is_bucket_target(target):
        return None
    objects = list_period(target, wanted, access(ctx))
    return last.digest if objects and buckets.object_records(objects) == last.objects else None


def changed_periods(ctx: ProjectContext) -> list[Period]:
    """Complete periods whose objects are not those of their last landing, oldest first."""
    target, landed = ctx.params.source.target, ctx.ledger.landings()
    if not sources.is_bucket_target(target):
        raise ValueError(f"source.target {target} is no bucket: only objects of a bucket say whether they have changed")
    found = list_all(target, ctx.params.first, access(ctx))
    periods = {ctx.params.parse_period(name): buckets.object_records(objects) for name, objects in found.items()}
    return sorted(
        period
        for period, objects in periods.items()
        if period >= ctx.params.first and is_complete(ctx, period)
        and not ((last := landed.get(str(period))) and (last.source, last.objects) == (target, objects))
    )  # fmt: skip


def next_period(ctx: ProjectContext) -> list[Period]:
    """The period after the newest accepted one, if it is complete."""
    accepted = [check.period for check in ctx.ledger.validations() if check.accepted]
    wanted = ctx.params.parse_period(max(accepted)).shift(1) if accepted else ctx.params.first
    return [wanted] if is_complete(ctx, wanted) else []


def is_complete(ctx: ProjectContext, period: Period) -> bool:
    """Whether its rows and labels were known when this run was due."""
    due = flow_run.scheduled_start_time or datetime.now(UTC)
    delay: timedelta = ctx.params.period.label_delay
    return period.end + delay <= due


def access(ctx: ProjectContext) -> BucketAccess:
    """How to get to the source's buckets from here."""
    return BucketAccess(ctx.settings.source_endpoint, ctx.settings.source_profile)
