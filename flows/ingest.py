"""Ingest: the rows of a period land, are recorded and versioned. Whether they are any good is validate's to say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from prefect import flow, task
from prefect.runtime import flow_run

from flows.door import Here, here, one_heartbeat
from flows.validate import validate
from stores import batches
from tasks import dataset, sources
from tasks.policy import OUTSIDE
from trimtab.periods import Period

fetch = task(**OUTSIDE)(sources.fetch)
version_data = task(name="version-data", **OUTSIDE)(dataset.save)


def _name() -> str:
    return f"ingest-{flow_run.parameters.get('period') or 'next'}"


@flow(flow_run_name=_name)
def ingest(period: str | None = None, and_validate: bool = True) -> str:
    """Land the rows of a period; the batch's digest. The same rows again change nothing.

    Args:
        period: like 2013-03; empty: the one after the newest, once its labels are known
        and_validate: go on with validate when the rows have landed
    """
    place = here()
    wanted = place.params.parse_period(period) if period else next_period(place)
    if wanted is None:
        print("No period is complete that has not been ingested: nothing to do.")
        return ""
    dataset.init(place.root)
    rows = fetch(place.root, place.params.source.target, wanted)
    batch = batches.land(place.root, str(wanted), rows)
    version = version_data(place.root, message=f"Land {wanted}: {batch.rows} rows", commit=place.settings.commit_data)
    is_new = place.ledger.record_batch(str(wanted), batch.digest, rows=batch.rows, source=place.params.source.target)
    place.ledger.record_dataset(
        version.hash, pointer=version.pointer, period=str(wanted), cause="landed", git_commit=version.git_commit
    )
    print(f"{wanted}: {batch.rows} rows landed as {batch.digest[:12]}{'' if is_new else ', as before'}")
    if and_validate:
        with one_heartbeat():
            validate(str(wanted), batch.digest)
    return batch.digest


def next_period(place: Here) -> Period | None:
    """The period after the newest accepted one, if its rows and labels were known when this run was due."""
    accepted = [check.period for check in place.ledger.checks() if check.accepted]
    wanted = place.params.parse_period(max(accepted)).shift(1) if accepted else place.params.first
    due = flow_run.scheduled_start_time or datetime.now(UTC)
    delay: timedelta = place.params.period.label_delay
    return wanted if wanted.end + delay <= due else None
