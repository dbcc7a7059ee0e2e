"""The ledger's tables. Rows are only added, never changed; the primary key decides what counts as the same fact, so
writing it again is harmless. `recorded_at` is when the row was written, for people; it is never part of a key.

A change of these tables needs a migration in `stores/ledger/migrations/versions/`.
"""

from typing import Any

from sqlalchemy import JSON, Boolean, Column, DateTime, Float, ForeignKey, Integer, MetaData, String, Table, Text, func
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData()
_json = JSON().with_variant(JSONB(), "postgresql")


def _table(name: str, *columns: Column[Any]) -> Table:
    return Table(
        name,
        metadata,
        *columns,
        Column("recorded_at", DateTime(timezone=True), server_default=func.now(), nullable=False),
    )


batches = _table(
    "batches",
    Column("period", String, primary_key=True),
    Column("digest", String, primary_key=True, comment="sha256 of the Parquet file that landed"),
    Column("rows", Integer, nullable=False),
    Column("source", String, nullable=False),
)

landings = _table(
    "landings",
    Column("period", String, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False, comment="of the period's landings, from 1"),
    Column("digest", String, nullable=False),
    Column("source", String, nullable=False),
    Column("objects", _json, nullable=False, comment="[key, etag, size] of each object of a bucket, in order"),
)

validations = _table(
    "validations",
    Column("period", String, primary_key=True),
    Column("digest", String, primary_key=True),
    Column("schema", String, primary_key=True, comment="digest of the schema that was applied"),
    Column("accepted", Boolean, nullable=False),
    Column("reason", Text, nullable=False),
    Column("rows_good", Integer, nullable=False),
    Column("rows_bad", Integer, nullable=False),
    Column("evidence", _json, nullable=False),
)

datasets = _table(
    "datasets",
    Column("hash", String, primary_key=True, comment="DVC's hash of data/"),
    Column("pointer", Text, nullable=False, comment="the text of data.dvc"),
    Column("period", String, nullable=False, comment="the period whose batch made this version"),
    Column("cause", String, nullable=False),
    Column("git_commit", String),
)

dataset_heads = _table(
    "dataset_heads",
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("hash", String, nullable=False, comment="the newest dataset version from this row on"),
    Column("pointer", Text, nullable=False),
    Column("period", String, nullable=False),
    Column("cause", String, nullable=False),
)

decisions = _table(
    "decisions",
    Column("id", String, primary_key=True),
    Column("period", String, nullable=False, index=True),
    Column("release", String, nullable=False),
    Column("action", String, nullable=False),
    Column("cause", String, nullable=False),
    Column("evidence", _json, nullable=False),
)

claims = _table(
    "claims",
    Column("work", String, primary_key=True, comment="work to be done once, e.g. retrain:<decision id>"),
    Column("attempt", Integer, primary_key=True),
    Column("owner", String, nullable=False, comment="the flow run that does the work"),
)

outcomes = _table(
    "outcomes",
    Column("work", String, primary_key=True),
    Column("result", String, nullable=False),
    Column("owner", String, nullable=False),
    Column("evidence", _json, nullable=False),
)

gates = _table(
    "gates",
    Column("id", String, primary_key=True),
    Column("run_id", String, nullable=False, index=True),
    Column("champion", String),
    Column("passed", Boolean, nullable=False),
    Column("reason", Text, nullable=False),
    Column("evidence", _json, nullable=False),
)

releases = _table(
    "releases",
    Column("digest", String, primary_key=True),
    Column("model_name", String, nullable=False),
    Column("model_version", Integer, nullable=False),
    Column("run_id", String, nullable=False, index=True),
    Column("manifest", _json, nullable=False),
)

rollouts = _table(
    "rollouts",
    Column("id", String, primary_key=True),
    Column("release", String, ForeignKey("releases.digest"), nullable=False),
    Column("champion_before", String),
    Column("strategy", String, nullable=False),
    Column("cause", String, nullable=False),
    Column("policy", _json, comment="the rules that it is judged by, and what they apply to"),
)

rollout_steps = _table(
    "rollout_steps",
    Column("rollout", String, ForeignKey("rollouts.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("state", String, nullable=False),
    Column("evidence", _json, nullable=False),
)

rollout_observations = _table(
    "rollout_observations",
    Column("rollout", String, ForeignKey("rollouts.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("state", String, nullable=False),
    Column("pairs", Integer, nullable=False, comment="rows that both models scored"),
    Column("labels", Integer, nullable=False),
    Column("verdict", String, nullable=False),
    Column("evidence", _json, nullable=False),
)

live = _table(
    "live",
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("champion", String, ForeignKey("releases.digest"), nullable=False),
    Column("challenger", String, ForeignKey("releases.digest")),
    Column("challenger_share", Float, nullable=False, server_default="0"),
    Column("rollout", String),
    Column("move", String, nullable=False, comment="promote, rollback, shadow, canary, close or experiment"),
    Column("reason", Text, nullable=False),
    Column("actor", String, nullable=False, comment="the flow run or the person that made the change"),
)

alerts = _table(
    "alerts",
    Column("id", String, primary_key=True),
    Column("kind", String, nullable=False),
    Column("message", Text, nullable=False),
    Column("evidence", _json, nullable=False),
)
