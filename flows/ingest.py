"""Ingest: the rows of a period land, are recorded and versioned; then validate decides whether they are accepted."""

from __future__ import annotations

from prefect import flow
from prefect.runtime import flow_run

from flows.validate import validate
from operations import ingestion
from operations.context import ProjectContext, load_context, shared_heartbeat
from tasks import dataset
from tasks.source_access import SourceError, SourceRejected


def _name() -> str:
    asked = flow_run.parameters
    return f"ingest-{asked.get('period') or ('changes' if asked.get('changed') else 'next')}"


@flow(flow_run_name=_name)
def ingest(period: str | None = None, and_validate: bool = True, changed: bool = False) -> str:
    """Land the rows of a period; the batch's digest. The same rows again change nothing.

    Args:
        period: like 2013-03; empty: all that have not landed and whose labels are known, oldest first
        and_validate: go on with validate when the rows have landed
        changed: instead, every complete period whose objects in the source's bucket are new or changed
    """
    ctx, digests, failures = load_context(), [], []
    periods = ingestion.choose_periods(ctx, period, changed=changed)
    if not periods:
        print("No period is complete that has not been ingested: nothing to do.")
        return ""
    dataset.init(ctx.workspace)
    for wanted in periods:
        try:
            digest = ingestion.land(ctx, wanted)
        except (SourceError, SourceRejected) as error:  # of this period only: the others land all the same
            failures.append(error)
            continue
        digests.append(_validate_newest(ctx, str(wanted), digest) if digest and and_validate else digest)
    if failures:
        raise type(failures[0])("; ".join(map(str, failures))) from failures[0]
    return " ".join(filter(None, digests))


def _validate_newest(ctx: ProjectContext, period: str, digest: str) -> str:
    """Validate the landed batch, and after it a newer one that another run landed meanwhile; the last one's digest.

    The other run may have validated its rows before these, and the newest have to come last.
    """
    with shared_heartbeat():
        validate(period, digest)
        while (newest := ctx.ledger.landing(period)) is not None and newest.digest != digest:
            digest = newest.digest
            validate(period, digest)
    return digest
