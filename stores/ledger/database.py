"""The ledger's database: connections, transactions, and rows as records. The queries are in `stores.ledger.ledger`,
`stores.ledger.rollouts` and `stores.ledger.datasets`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Connection, Row, Table, create_engine, event, select
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.pool import NullPool

from stores.ledger.records import LedgerUnavailable

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

R = TypeVar("R", bound="DataclassInstance")


def record(kind: type[R], row: Row[Any]) -> R:
    """*row* as a record of type *kind*."""
    known = kind.__dataclass_fields__
    return kind(**{name: value for name, value in row._mapping.items() if name in known})


def without_time(fact: DataclassInstance) -> dict[str, Any]:
    """The columns of a record without `recorded_at`, which the database sets."""
    values = asdict(fact)
    values.pop("recorded_at")
    return values


class Database:
    """The tables at an SQLAlchemy *url*. Keeps one connection open and tests it before each use.

    Every method raises LedgerUnavailable when the database does not answer for *patience_s* seconds; a restarted
    database is back within some seconds.
    """

    def __init__(self, url: str, *, patience_s: float = 0.0) -> None:
        self._patience_s = patience_s
        if url.startswith("postgresql"):
            self._engine = create_engine(url, connect_args={"connect_timeout": 5}, pool_pre_ping=True)
        else:  # an open SQLite file keeps answering after it was deleted
            self._engine = create_engine(url, poolclass=NullPool)
        if self._engine.dialect.name == "sqlite":
            event.listen(self._engine, "connect", _hold_references)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A connection whose writes are committed together or not at all."""
        try:
            with self._connected() as db, db.begin():
                yield db
        except OperationalError as error:
            where, why = self._engine.url.render_as_string(hide_password=True), " ".join(str(error.orig).split())
            raise LedgerUnavailable(
                f"the ledger at {where} does not answer: {why}; `trimtab status` shows its database"
            ) from error

    def _connected(self) -> Connection:
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                return self._engine.connect()
            except OperationalError:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(0.2)

    def add(self, table: Table, **values: Any) -> bool:
        """Insert a row; False when its primary key exists already."""
        try:
            with self.transaction() as db:
                db.execute(table.insert().values(**values))
        except IntegrityError:
            key = [column == values[column.name] for column in table.primary_key]
            if not self.rows(select(table).where(*key)):
                raise
            return False
        return True

    def rows(self, query: Any) -> Sequence[Row[Any]]:
        """The rows of *query*; repeated when the server goes away in the middle."""
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                with self.transaction() as db:
                    return db.execute(query).all()
            except LedgerUnavailable:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(0.2)


def _hold_references(connection: Any, _record: object) -> None:
    """SQLite checks foreign keys only on request."""
    connection.execute("PRAGMA foreign_keys = ON")
