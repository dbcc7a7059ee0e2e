"""The ledger's schema, on SQLite and on PostgreSQL: what the migrations make is what `tables` describes."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from stores.ledger import Ledger, migrations, tables
from stores.ledger.migrations import HEAD, VERSION_TABLE, LedgerSchemaError, migrate

PROCESSES = 3
MIGRATE = "import sys; from stores.ledger import Ledger; from stores.ledger.migrations import migrate; "


def run(sql: str, ledger: Ledger) -> None:
    with ledger.transaction() as db:
        db.execute(sa.text(sql))


def revision(ledger: Ledger) -> str | None:
    with ledger.transaction() as db:
        return migrations.revision(db)


def test_an_empty_database_gets_the_tables_that_are_described(ledger_url: str) -> None:
    ledger = Ledger(ledger_url)
    assert revision(ledger) is None
    migrate(ledger)
    assert revision(ledger) == HEAD
    with ledger.transaction() as db:
        assert compare_metadata(MigrationContext.configure(db, opts=migrations.options()), tables.metadata) == []
    assert ledger.record_batch("2013-03", "d1", rows=1, source="s")


def test_a_filled_ledger_keeps_its_rows(ledger_url: str) -> None:
    """Every migration runs on a ledger with rows of the one before; the first has none before it."""
    ledger = Ledger(ledger_url)
    for script in reversed([*_scripts().walk_revisions()]):
        with ledger.transaction() as db:
            migrations.upgrade(db, to=script.revision)
        ledger.record_release(script.revision, model_name="m", model_version=1, run_id="run", manifest={})
    migrate(ledger)
    assert [release.digest for release in ledger.releases()] == [
        script.revision for script in reversed([*_scripts().walk_revisions()])
    ]
    migrate(ledger)
    assert revision(ledger) == HEAD


def test_the_newest_migration_is_the_head_that_is_checked_first() -> None:
    assert _scripts().get_heads() == [HEAD]


def test_many_may_migrate_at_once(ledger_url: str) -> None:
    def one(_: int) -> subprocess.CompletedProcess[str]:
        code = f"{MIGRATE} migrate(Ledger(sys.argv[1]))"
        return subprocess.run([sys.executable, "-c", code, ledger_url], capture_output=True, text=True, check=False)

    with ThreadPoolExecutor(PROCESSES) as pool:
        done = list(pool.map(one, range(PROCESSES)))
    assert [process.returncode for process in done] == [0] * PROCESSES, done[0].stderr
    assert revision(Ledger(ledger_url)) == HEAD


def test_tables_without_a_revision_are_left_alone(ledger_url: str) -> None:
    ledger = Ledger(ledger_url)
    run("CREATE TABLE releases (digest VARCHAR PRIMARY KEY)", ledger)
    with pytest.raises(LedgerSchemaError, match=r"has tables \(releases\) but no schema revision"):
        migrate(ledger)
    assert revision(ledger) is None


def test_a_ledger_of_a_newer_version_is_left_alone(ledger: Ledger) -> None:
    run(f"UPDATE {VERSION_TABLE} SET version_num = '9999'", ledger)
    with pytest.raises(LedgerSchemaError, match="revision 9999, which this version of Trimtab does not know"):
        migrate(ledger)
    assert revision(ledger) == "9999"


def test_a_ledger_that_is_up_to_date_is_opened_without_alembic(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    migrate(Ledger(url))
    code = f"{MIGRATE} migrate(Ledger(sys.argv[1])); print('alembic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_next_migration_is_written_from_the_tables_without_a_ledger() -> None:
    """`alembic check` finds nothing that a next migration would change."""
    done = subprocess.run(
        [sys.executable, "-m", "alembic", "check"],
        cwd=migrations.FOLDER.parents[2], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def _scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(migrations.FOLDER))
    return ScriptDirectory.from_config(config)
