"""Land the rows of a period: choose the periods, fetch their rows, and put them into the dataset and the ledger."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from prefect import task
from prefect.runtime import flow_run

from operations import datasets
from operations.context import ProjectContext, short
from stores import batches
from tasks import buckets, sources
from tasks.buckets import SourceObject
from tasks.retries import RETRIED
from tasks.source_access import BucketAccess
from trimtab.data.periods import Period

if TYPE_CHECKING:
    import pandas as pd

fetch = task(**RETRIED)(sources.fetch)
read_bucket = task(name="fetch", **RETRIED)(buckets.read)
list_period = task(name="list-objects", **RETRIED)(buckets.list_period_objects)
list_all = task(name="list-objects", **RETRIED)(buckets.list_by_period)


MOST_AT_ONCE = 48
"""Periods that one run ingests: two days of hours, so that a nightly run catches up after an outage, and ends."""


def choose_periods(ctx: ProjectContext, period: str | None, *, changed: bool) -> list[Period]:
    """The periods to ingest: the named one, those whose objects have *changed*, or the next ones, oldest first."""
    if period:
        return [ctx.params.parse_period(period)]
    return changed_periods(ctx) if changed else next_periods(ctx)


def changed_periods(ctx: ProjectContext) -> list[Period]:
    """Complete periods whose objects in the bucket differ from those of their last landing, oldest first.

    Raises ValueError when the source is not a bucket.
    """
    target, landed = ctx.params.source.target, ctx.ledger.landings()
    if not sources.is_bucket_target(target):
        raise ValueError(f"source.target {target} is no bucket: only objects of a bucket say whether they have changed")
    found = list_all(target, ctx.params.first, _access(ctx))
    periods = {ctx.params.parse_period(name): buckets.object_records(objects) for name, objects in found.items()}
    return sorted(
        period
        for period, objects in periods.items()
        if period >= ctx.params.first and is_complete(ctx, period)
        and not ((last := landed.get(str(period))) and (last.source, last.objects) == (target, objects))
    )  # fmt: skip


def next_periods(ctx: ProjectContext) -> list[Period]:
    """The complete periods that have not landed, oldest first, MOST_AT_ONCE at the most.

    A period whose batch was refused has landed: it keeps no later one from landing, and comes again when it is asked
    for by name, or when its objects in a bucket change.
    """
    landed, found, period = ctx.ledger.landings(), list[Period](), ctx.params.first
    target = ctx.params.source.target
    # What a bucket has nothing for never lands, and would keep later periods out for good.
    present = list_all(target, period, _access(ctx)) if sources.is_bucket_target(target) else None
    while len(found) < MOST_AT_ONCE and is_complete(ctx, period):
        if str(period) not in landed and (present is None or str(period) in present):
            found.append(period)
        period = period.shift(1)
    return found


def is_complete(ctx: ProjectContext, period: Period) -> bool:
    """Whether the period's rows and labels were known when this flow run was scheduled."""
    due = flow_run.scheduled_start_time or datetime.now(UTC)
    delay: timedelta = ctx.params.period.label_delay
    return period.end + delay <= due


def land(ctx: ProjectContext, wanted: Period) -> str:
    """Land the rows of a period; the batch's digest, empty when its bucket has no object yet.

    Objects that have landed already are not read again.
    """
    target, period = ctx.params.source.target, str(wanted)
    if (digest := _landed_digest(ctx, wanted)) is not None:
        print(f"{period}: landed as {short(digest)}: unchanged in the bucket")
        return digest
    rows, objects = _fetch_rows(ctx, wanted)
    if sources.is_bucket_target(target) and not objects:
        print(f"{period}: no object in {target} yet: nothing landed.")
        return ""
    batch = batches.land(ctx.workspace, period, rows)
    name = batch.path.relative_to(ctx.workspace / "data").as_posix()
    datasets.advance(
        ctx, {name: batch.path}, period=period, cause="landed", message=f"Land {period}: {batch.rows} rows"
    )
    is_new = ctx.ledger.record_batch(period, batch.digest, rows=batch.rows, source=target)
    # The landing comes last: a run that finds it repeats none of this.
    ctx.ledger.record_landing(period, batch.digest, source=target, objects=buckets.object_records(objects))
    print(f"{period}: landed as {short(batch.digest)}: {batch.rows} rows{'' if is_new else ', as before'}")
    return batch.digest


def _fetch_rows(ctx: ProjectContext, wanted: Period) -> tuple[pd.DataFrame, list[SourceObject]]:
    """The rows of a period, and the objects that they came from when the source is a bucket."""
    target = ctx.params.source.target
    if sources.is_bucket_target(target):
        return read_bucket(ctx.params, wanted, _access(ctx))
    return fetch(ctx.root, ctx.params, wanted), []


def _landed_digest(ctx: ProjectContext, wanted: Period) -> str | None:
    """The digest of the batch that the period's objects have landed as; None when they have not."""
    target, last = ctx.params.source.target, ctx.ledger.landing(str(wanted))
    if last is None or last.source != target or not sources.is_bucket_target(target):
        return None
    objects = list_period(target, wanted, _access(ctx))
    return last.digest if objects and buckets.object_records(objects) == last.objects else None


def _access(ctx: ProjectContext) -> BucketAccess:
    return BucketAccess(ctx.settings.source_endpoint, ctx.settings.source_profile)
