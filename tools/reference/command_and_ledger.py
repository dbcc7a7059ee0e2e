"""The pages on the command and the ledger's tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer.main
from sqlalchemy import Column

from cli.main import app
from stores.ledger.tables import metadata
from tools.reference.tables import check_complete, table

TABLES = {
    "batches": "rows of a period as they landed",
    "landings": "which objects of the source each batch was made of",
    "validations": "the result of validating a batch against a schema",
    "datasets": "versions of `data/`",
    "dataset_heads": "which version is the newest; moved by compare-and-set",
    "decisions": "what monitoring concluded for a period",
    "claims": "which flow run does a piece of work, attempt by attempt",
    "outcomes": "how a piece of work ended",
    "gates": "results of the gate",
    "releases": "release bundles",
    "rollouts": "rollouts and the policy that each began with",
    "rollout_steps": "the transitions of a rollout, with what had been observed",
    "rollout_observations": "what each look at a rollout observed, where it was new",
    "live": "who answers users: the newest row counts",
    "alerts": "alerts that were raised",
}


def cli_page() -> str:
    """Every command with its arguments and options."""
    group: Any = typer.main.get_command(app)
    parts = ["# The trimtab command", group.help]
    for name, command in sorted(_commands("trimtab", group)):
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        options = [p for p in command.params if p.param_type_name == "option"]
        usage = [name, *(p.name.upper() for p in arguments), *(["[OPTIONS]"] if options else [])]
        parts += [f"## {name}", command.help, f"```console\n$ {' '.join(usage)}\n```"]
        rows = [[f"`{p.name.upper()}`", p.help or ""] for p in arguments]
        rows += [[", ".join(f"`{opt}`" for opt in p.opts), p.help or ""] for p in options]
        parts += [table(["option", "meaning"], rows)] if rows else []
    return "\n\n".join(parts)


def _commands(path: str, group: Any) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(f"{path} {name}", command)
        else:
            yield f"{path} {name}", command


def ledger_page() -> str:
    """Every table with its columns. Raises Incomplete."""
    check_complete("tables", metadata.tables, TABLES)
    parts = [
        "# The ledger's tables",
        "SQL tables in PostgreSQL (or SQLite in tests). Rows are only added. The primary key decides what counts as "
        "the same fact, so writing it again changes nothing. `recorded_at` says when a row was written.",
    ]
    for name, about in TABLES.items():
        rows = [
            [f"`{c.name}`", str(c.type).lower(), _kind(c), c.comment or ""]
            for c in metadata.tables[name].columns
            if c.name != "recorded_at"
        ]
        parts += [f"## {name}", f"{about[0].upper()}{about[1:]}.", table(["column", "type", "", "is"], rows)]
    return "\n\n".join(parts)


def _kind(column: Column[Any]) -> str:
    if column.primary_key:
        return "primary key"
    return "nullable" if column.nullable else ""
