"""Create the ledger's tables and bring them to this version's schema, with Alembic.

Only the stack's registration does this. The model server opens a ledger that exists, and runs without Alembic.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, column, inspect, select, table, text

from stores.ledger import tables
from stores.ledger.database import Database

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

HEAD = "0001"
"""The newest revision in `versions/`; a test compares the two."""
VERSION_TABLE = "ledger_schema"  # not Alembic's own name: MLflow may have its tables in the same database
FOLDER = Path(__file__).parent
_LOCK = 7301


class LedgerSchemaError(RuntimeError):
    """The ledger's tables are not those of any revision that this version knows; the message says what to do."""


def migrate(ledger: Database) -> None:
    """Bring the ledger's tables to revision HEAD; an empty database gets all of them.

    Safe to repeat, and when several processes do it at once. Raises LedgerSchemaError for tables without a revision
    and for an unknown revision, and LedgerUnavailable.
    """
    with ledger.transaction() as db:
        if revision(db) == HEAD:
            return
    with ledger.transaction() as db:
        _lock(db)
        found = revision(db)
        if found != HEAD:
            _check(db, found)
            upgrade(db)


def revision(db: Connection) -> str | None:
    """The revision of the ledger's tables; None before the first migration."""
    if not inspect(db).has_table(VERSION_TABLE):
        return None
    found: str | None = db.execute(select(column("version_num")).select_from(table(VERSION_TABLE))).scalar()
    return found


def upgrade(db: Connection, to: str = "head") -> None:
    """Run the migrations up to revision *to* in the transaction of *db*."""
    from alembic.runtime.environment import EnvironmentContext

    config, scripts = _scripts()
    environment = EnvironmentContext(config, scripts, fn=lambda at, _: scripts._upgrade_revs(to, at))
    environment.configure(connection=db, **options())
    environment.run_migrations()


def options() -> dict[str, Any]:
    """How Alembic is configured, for upgrades and for `alembic revision`."""
    return {
        "target_metadata": tables.metadata, "version_table": VERSION_TABLE, "render_as_batch": True,
        "compare_server_default": True,
    }  # fmt: skip


@cache
def _scripts() -> tuple[Config, ScriptDirectory]:
    """Alembic's configuration and the migrations of this folder, loaded once per process."""
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    return config, ScriptDirectory.from_config(config)


def _lock(db: Connection) -> None:
    """Let one process migrate at a time; the lock ends with the transaction."""
    if db.dialect.name == "postgresql":
        db.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    else:
        db.exec_driver_sql("BEGIN IMMEDIATE")


def _check(db: Connection, found: str | None) -> None:
    _, scripts = _scripts()
    if found is not None and found not in {script.revision for script in scripts.walk_revisions()}:
        raise LedgerSchemaError(
            f"the ledger has schema revision {found}, which this version of Trimtab does not know: a newer version "
            "migrated it. Install that version again, or restore the backup from before its first `trimtab up`"
        )
    present = sorted(set(inspect(db).get_table_names()) & {*tables.metadata.tables})
    if found is None and present:
        raise LedgerSchemaError(
            f"the ledger's database has tables ({', '.join(present)}) but no schema revision, so what made them is "
            "unknown. Set TRIMTAB_LEDGER_URL to an empty database, or back this one up and drop these tables"
        )
