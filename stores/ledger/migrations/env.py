"""Alembic's entry for `alembic revision --autogenerate -m "what changes"`, which writes the next migration.

It compares `stores.ledger.tables` with a database in memory that has all migrations, so it needs no ledger.
Upgrades do not come through here: see `stores.ledger.migrations.migrate`.
"""

from __future__ import annotations

from alembic import context
from sqlalchemy import create_engine

from stores.ledger import migrations

with create_engine("sqlite://").connect() as database:
    migrations.upgrade(database)
    context.configure(connection=database, **migrations.options())
    context.run_migrations()
