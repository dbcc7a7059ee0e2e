"""Batches, their validation, and dataset versions. The newest dataset version is set by compare-and-set, so that any
number of processes can propose one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from stores.ledger import tables as t
from stores.ledger.database import Database, record, without_time
from stores.ledger.records import ConflictError, DatasetHead, DatasetRecord, Landing, ValidationRecord


class Datasets(Database):
    """The part of the ledger about data."""

    def record_batch(self, period: str, digest: str, *, rows: int, source: str) -> bool:
        """Record a batch; False when the same one had landed before."""
        return self.add(t.batches, period=period, digest=digest, rows=rows, source=source)

    def record_validation(self, validation: ValidationRecord) -> bool:
        """Record that a batch was accepted or quarantined under a schema."""
        return self.add(t.validations, **without_time(validation))

    def validations(self, period: str | None = None) -> list[ValidationRecord]:
        """The validations of *period*, or of every period, oldest first."""
        query = select(t.validations).order_by(t.validations.c.recorded_at)
        if period is not None:
            query = query.where(t.validations.c.period == period)
        return [record(ValidationRecord, row) for row in self.rows(query)]

    def record_dataset(
        self, hash: str, *, pointer: str, period: str, cause: str, git_commit: str | None = None
    ) -> bool:
        """Record a dataset version."""
        return self.add(t.datasets, hash=hash, pointer=pointer, period=period, cause=cause, git_commit=git_commit)

    def datasets(self) -> list[DatasetRecord]:
        """Every dataset version, oldest first."""
        return [record(DatasetRecord, row) for row in self.rows(select(t.datasets).order_by(t.datasets.c.recorded_at))]

    def record_landing(self, period: str, digest: str, *, source: str, objects: Sequence[Sequence[Any]] = ()) -> bool:
        """Make the batch *digest* the last landing of *period*; False when it is already, from the same objects.

        Of several that land at once each gets a number, and the highest is the last.
        """
        made_of = [list(each) for each in objects]
        while True:
            last = self.landing(period)
            if last is not None and (last.digest, last.source, last.objects) == (digest, source, made_of):
                return False
            number = last.number + 1 if last else 1
            if self.add(t.landings, period=period, number=number, digest=digest, source=source, objects=made_of):
                return True

    def landing(self, period: str) -> Landing | None:
        """The last landing of *period*."""
        query = select(t.landings).where(t.landings.c.period == period).order_by(t.landings.c.number.desc()).limit(1)
        rows = self.rows(query)
        return record(Landing, rows[0]) if rows else None

    def landings(self) -> dict[str, Landing]:
        """The last landing of every period."""
        query = select(t.landings).order_by(t.landings.c.number)
        return {row.period: record(Landing, row) for row in self.rows(query)}

    def head(self) -> DatasetHead | None:
        """The newest dataset version; None before the first."""
        rows = self.rows(select(t.dataset_heads).order_by(t.dataset_heads.c.version.desc()).limit(1))
        return record(DatasetHead, rows[0]) if rows else None

    def heads(self) -> list[DatasetHead]:
        """Every version that was the newest once, oldest first."""
        return [
            record(DatasetHead, row) for row in self.rows(select(t.dataset_heads).order_by(t.dataset_heads.c.version))
        ]

    def move_head(self, hash: str, *, pointer: str, expected: int, period: str, cause: str) -> DatasetHead:
        """Make *hash* the newest dataset version, as version *expected* + 1.

        *expected* is the version that *hash* was made from, 0 for none. Raises ConflictError when another version has
        become the newest since, whose rows *hash* does not hold.
        """
        values = {"version": expected + 1, "hash": hash, "pointer": pointer, "period": period, "cause": cause}
        try:
            with self.transaction() as db:
                newest = db.execute(select(func.coalesce(func.max(t.dataset_heads.c.version), 0))).scalar_one()
                if newest != expected:
                    raise ConflictError(expected, "the dataset")
                row = db.execute(t.dataset_heads.insert().values(**values).returning(*t.dataset_heads.c)).one()
        except IntegrityError as error:
            raise ConflictError(expected, "the dataset") from error
        return record(DatasetHead, row)
