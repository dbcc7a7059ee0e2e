"""Save all that cannot be made again, and bring it back: databases and the store's bucket.

    python3 infra/compose/backup.py save FOLDER       while everything runs
    python3 infra/compose/backup.py restore FOLDER    into new, empty volumes; then `docker compose up -d --wait`

Databases are saved first and the bucket after them: what a row speaks of was written before the row, so it is in the
copy. FOLDER/backup.json is written last; without it the rest is no backup. Secrets are not in it: keep their folder by
itself."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from compose_command import Failed, compose

# Database and owner, as POSTGRES_ACCOUNTS in compose.yaml has them.
DATABASES = {"prefect": "prefect", "mlflow": "mlflow", "mlflow_accounts": "mlflow", "ledger": "ledger"}
_BUCKET, _INDEX = "bucket.tar", "backup.json"
_SOCKET = ("--host", "/tmp")  # nosec B108 # where only the administrator inside the container gets in
_TABLES = "select count(*) from information_schema.tables where table_schema = 'public'"


def main(arguments: list[str]) -> int:
    """Do it; 1 when it cannot be done, 2 when it is not understood."""
    verbs = {"save": save, "restore": restore}
    if len(arguments) != 2 or arguments[0] not in verbs:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        verbs[arguments[0]](Path(arguments[1]))
    except (Failed, OSError) as error:
        print(f"{arguments[0]} did not end well: {error}", file=sys.stderr)
        return 1
    return 0


def save(folder: Path) -> None:
    """Write a backup into *folder*, which has to be new or empty. Raises Failed."""
    if folder.exists() and any(folder.iterdir()):
        raise Failed(f"{folder} is not empty: give every backup a folder of its own")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    started = time.time()
    for database in DATABASES:
        with (folder / f"{database}.dump").open("wb") as file:
            compose("exec", "-T", "postgres", "pg_dump", *_SOCKET, "--format=custom", database, stdout=file)
    with (folder / _BUCKET).open("wb") as file:
        compose("run", "--rm", "--no-deps", "-T", "accounts", "/srv/bucket_backup.py", "save", stdout=file)
    names = [*(f"{database}.dump" for database in DATABASES), _BUCKET]
    index = {"started": started, "ended": time.time(), "files": {name: _described(folder / name) for name in names}}
    draft = folder / f"{_INDEX}.new"
    draft.write_text(json.dumps(index, indent=1) + "\n")
    draft.rename(folder / _INDEX)
    print(f"saved to {folder}: {sum(file['bytes'] for file in index['files'].values()) / 1e6:.1f} MB")  # type: ignore[attr-defined]


def restore(folder: Path) -> None:
    """Bring the backup in *folder* back. Raises Failed when it is damaged, or something is there that it would
    overwrite."""
    check(folder)
    compose("up", "--detach", "--wait", "--no-build", "postgres", "objects")
    for database in DATABASES:
        query = ("psql", *_SOCKET, "--dbname", database, "--tuples-only", "--no-align", "--command", _TABLES)
        if int(compose("exec", "-T", "postgres", *query)):
            raise Failed(
                f"the database {database} is not empty: restore into new volumes (docker compose down --volumes)"
            )
    for database, owner in DATABASES.items():
        into = ("--dbname", database, "--no-owner", f"--role={owner}", "--exit-on-error", "--single-transaction")
        with (folder / f"{database}.dump").open("rb") as file:
            compose("exec", "-T", "postgres", "pg_restore", *_SOCKET, *into, stdin=file)
        print(f"the database {database} is back")
    run = ("run", "--rm", "--no-deps", "-T", "accounts")
    compose(*run, "/srv/bootstrap_accounts.py", "bucket")
    with (folder / _BUCKET).open("rb") as file:
        compose(*run, "/srv/bucket_backup.py", "load", stdin=file)
    print("the bucket is back; now: docker compose --file infra/compose/compose.yaml up -d --wait")


def check(folder: Path) -> None:
    """Raise Failed unless *folder* holds a whole and undamaged backup."""
    try:
        index: dict[str, Any] = json.loads((folder / _INDEX).read_text())
    except FileNotFoundError as error:
        raise Failed(f"{folder} holds no backup that has ended: there is no {_INDEX} in it") from error
    for name, described in index["files"].items():
        if not (folder / name).exists() or _described(folder / name) != described:
            raise Failed(f"{folder / name} is not what was saved: take another backup")


def _described(file: Path) -> dict[str, Any]:
    with file.open("rb") as content:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(content, "sha256").hexdigest()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
