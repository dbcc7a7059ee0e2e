"""Batches, what became of them, and the dataset versions that they made: which is the newest is decided here, by
compare-and-set, for any number of processes that hold none of the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from stores.ledger import tables as t
from stores.ledger.database import Database, record, without_time
from stores.ledger.records import BatchCheck, Head, Landing, LostRace


class Datasets(Database):
    """The part of the ledger that is about data."""

    def record_batch(self, period: str, digest: str, *, rows: int, source: str) -> bool:
        """A batch landed; False when the very same one had landed before."""
        return self.add(t.batches, period=period, digest=digest, rows=rows, source=source)

    def record_check(self, check: BatchCheck) -> bool:
        """A batch was accepted or quarantined under a schema."""
        return self.add(t.batch_checks, **without_time(check))

    def checks(self, period: str | None = None) -> list[BatchCheck]:
        """Validation's conclusions, oldest first."""
        query = select(t.batch_checks).order_by(t.batch_checks.c.recorded_at)
        if period is not None:
            query = query.where(t.batch_checks.c.period == period)
        return [record(BatchCheck, row) for row in self.rows(query)]

    def record_dataset(
        self, hash: str, *, pointer: str, period: str, cause: str, git_commit: str | None = None
    ) -> bool:
        """A dataset version came to be."""
        return self.add(t.datasets, hash=hash, pointer=pointer, period=period, cause=cause, git_commit=git_commit)

    def datasets(self) -> list[dict[str, Any]]:
        """Every dataset version, oldest first."""
        return [dict(row._mapping) for row in self.rows(select(t.datasets).order_by(t.datasets.c.recorded_at))]

    def record_landing(self, period: str, digest: str, *, source: str, objects: Sequence[Sequence[Any]] = ()) -> bool:
        """The batch *digest* is the one of *period* that landed last; False when it was already, of the same objects.
        Of several that land at once each gets a number, and the highest is the last."""
        made_of = [list(each) for each in objects]
        while True:
            last = self.landing(period)
            if last is not None and (last.digest, last.source, last.objects) == (digest, source, made_of):
                return False
            number = last.number + 1 if last else 1
            if self.add(t.landings, period=period, number=number, digest=digest, source=source, objects=made_of):
                return True

    def landing(self, period: str) -> Landing | None:
        """The landing of *period* that was the last."""
        query = select(t.landings).where(t.landings.c.period == period).order_by(t.landings.c.number.desc()).limit(1)
        rows = self.rows(query)
        return record(Landing, rows[0]) if rows else None

    def landings(self) -> dict[str, Landing]:
        """The last landing of every period."""
        query = select(t.landings).order_by(t.landings.c.number)
        return {row.period: record(Landing, row) for row in self.rows(query)}

    def head(self) -> Head | None:
        """The newest dataset version; None before the first."""
        rows = self.rows(select(t.dataset_heads).order_by(t.dataset_heads.c.version.desc()).limit(1))
        return record(Head, rows[0]) if rows else None

    def heads(self) -> list[Head]:
        """Which dataset version was the newest when, oldest first."""
        return [record(Head, row) for row in self.rows(select(t.dataset_heads).order_by(t.dataset_heads.c.version))]

    def move_head(self, hash: str, *, pointer: str, expected: int, period: str, cause: str) -> Head:
        """Make *hash* the newest dataset version, as version *expected* + 1.

        *expected* is the version that the caller made it from, 0 for none. Raises LostRace when it has moved since:
        what was made does not hold the other's rows then.
        """
        values = {"version": expected + 1, "hash": hash, "pointer": pointer, "period": period, "cause": cause}
        try:
            with self.transaction() as db:
                newest = db.execute(select(func.coalesce(func.max(t.dataset_heads.c.version), 0))).scalar_one()
                if newest != expected:
                    raise LostRace(expected, "the dataset")
                row = db.execute(t.dataset_heads.insert().values(**values).returning(*t.dataset_heads.c)).one()
        except IntegrityError as error:
            raise LostRace(expected, "the dataset") from error
        return record(Head, row)
