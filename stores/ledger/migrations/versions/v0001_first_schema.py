"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    """Create the tables."""
    create_table(
        "alerts",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("evidence", JSON, nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    create_table(
        "batches",
        sa.Column("period", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False, comment="sha256 of the Parquet file that landed"),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("period", "digest"),
    )
    create_table(
        "claims",
        sa.Column("work", sa.String(), nullable=False, comment="work to be done once, e.g. retrain:<decision id>"),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False, comment="the flow run that does the work"),
        sa.PrimaryKeyConstraint("work", "attempt"),
    )
    create_table(
        "dataset_heads",
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("hash", sa.String(), nullable=False, comment="the newest dataset version from this row on"),
        sa.Column("pointer", sa.Text(), nullable=False),
        sa.Column("period", sa.String(), nullable=False),
        sa.Column("cause", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("version"),
    )
    create_table(
        "datasets",
        sa.Column("hash", sa.String(), nullable=False, comment="DVC's hash of data/"),
        sa.Column("pointer", sa.Text(), nullable=False, comment="the text of data.dvc"),
        sa.Column("period", sa.String(), nullable=False, comment="the period whose batch made this version"),
        sa.Column("cause", sa.String(), nullable=False),
        sa.Column("git_commit", sa.String()),
        sa.PrimaryKeyConstraint("hash"),
    )
    create_table(
        "decisions",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("period", sa.String(), nullable=False),
        sa.Column("release", sa.String(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("cause", sa.String(), nullable=False),
        sa.Column("evidence", JSON, nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_decisions_period", "decisions", ["period"])
    create_table(
        "gates",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("champion", sa.String()),
        sa.Column("passed", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("evidence", JSON, nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_gates_run_id", "gates", ["run_id"])
    create_table(
        "landings",
        sa.Column("period", sa.String(), nullable=False),
        sa.Column(
            "number", sa.Integer(), autoincrement=False, nullable=False, comment="of the period's landings, from 1"
        ),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("objects", JSON, nullable=False, comment="[key, etag, size] of each object of a bucket, in order"),
        sa.PrimaryKeyConstraint("period", "number"),
    )
    create_table(
        "outcomes",
        sa.Column("work", sa.String(), nullable=False),
        sa.Column("result", sa.String(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("evidence", JSON, nullable=False),
        sa.PrimaryKeyConstraint("work"),
    )
    create_table(
        "releases",
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("model_name", sa.String(), nullable=False),
        sa.Column("model_version", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("manifest", JSON, nullable=False),
        sa.PrimaryKeyConstraint("digest"),
    )
    op.create_index("ix_releases_run_id", "releases", ["run_id"])
    create_table(
        "validations",
        sa.Column("period", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("schema", sa.String(), nullable=False, comment="digest of the schema that was applied"),
        sa.Column("accepted", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("rows_good", sa.Integer(), nullable=False),
        sa.Column("rows_bad", sa.Integer(), nullable=False),
        sa.Column("evidence", JSON, nullable=False),
        sa.PrimaryKeyConstraint("period", "digest", "schema"),
    )
    create_table(
        "live",
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("champion", sa.String(), nullable=False),
        sa.Column("challenger", sa.String()),
        sa.Column("challenger_share", sa.Float(), server_default="0", nullable=False),
        sa.Column("rollout", sa.String()),
        sa.Column(
            "move", sa.String(), nullable=False, comment="promote, rollback, shadow, canary, close or experiment"
        ),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False, comment="the flow run or the person that made the change"),
        sa.ForeignKeyConstraint(["challenger"], ["releases.digest"]),
        sa.ForeignKeyConstraint(["champion"], ["releases.digest"]),
        sa.PrimaryKeyConstraint("version"),
    )
    create_table(
        "rollouts",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("release", sa.String(), nullable=False),
        sa.Column("champion_before", sa.String()),
        sa.Column("strategy", sa.String(), nullable=False),
        sa.Column("cause", sa.String(), nullable=False),
        sa.Column("policy", JSON, comment="the rules that it is judged by, and what they apply to"),
        sa.ForeignKeyConstraint(["release"], ["releases.digest"]),
        sa.PrimaryKeyConstraint("id"),
    )
    create_table(
        "rollout_observations",
        sa.Column("rollout", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("pairs", sa.Integer(), nullable=False, comment="rows that both models scored"),
        sa.Column("labels", sa.Integer(), nullable=False),
        sa.Column("verdict", sa.String(), nullable=False),
        sa.Column("evidence", JSON, nullable=False),
        sa.ForeignKeyConstraint(["rollout"], ["rollouts.id"]),
        sa.PrimaryKeyConstraint("rollout", "number"),
    )
    create_table(
        "rollout_steps",
        sa.Column("rollout", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("evidence", JSON, nullable=False),
        sa.ForeignKeyConstraint(["rollout"], ["rollouts.id"]),
        sa.PrimaryKeyConstraint("rollout", "number"),
    )


def create_table(name: str, *columns: sa.schema.SchemaItem) -> None:
    """Create a table whose rows say when they were written."""
    recorded_at = sa.Column("recorded_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False)
    op.create_table(name, *columns, recorded_at)
