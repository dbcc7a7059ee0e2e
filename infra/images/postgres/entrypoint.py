"""Become PostgreSQL with our databases. The first start makes them, each with an owner of its own who can enter no
other; every start gives these the passwords that are in the files then.

    POSTGRES_DATA      the folder on the volume (default /var/lib/trimtab/data)
    POSTGRES_ACCOUNTS  user:database,database;user:database …
    POSTGRES_SECRETS   the folder with a file `postgres-USER` for each of them

The administrator has no password and gets in only from inside the container, as the operating system's user."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from run_with_secrets import UnreadableSecret, read_secret

_HBA = """\
local all all peer
host all postgres all reject
host all all all scram-sha-256
"""
_ROUNDS = 4096


def main() -> int:
    """Become the server; 2 when a secret is missing."""
    data = Path(os.environ.get("POSTGRES_DATA", "/var/lib/trimtab/data")) / "cluster"
    accounts = dict(account.split(":") for account in os.environ["POSTGRES_ACCOUNTS"].split(";"))
    folder = Path(os.environ.get("POSTGRES_SECRETS", "/run/secrets"))
    try:
        passwords = {user: read_secret("POSTGRES_SECRETS", folder / f"postgres-{user}") for user in accounts}
    except UnreadableSecret as error:
        print(f"PostgreSQL does not start: {error}", file=sys.stderr)
        return 2
    if not data.exists():
        _initialize(data, {user: databases.split(",") for user, databases in accounts.items()})
    (data / "pg_hba.conf").write_text(_HBA)
    _single(data, [f"ALTER ROLE {user} PASSWORD '{verifier(password)}';" for user, password in passwords.items()])
    command = ("postgres", "-D", str(data), "-c", "listen_addresses=*", "-c", "unix_socket_directories=/tmp",
               "-c", "max_connections=200")  # fmt: skip
    return os.execvp(command[0], command)  # nosec B606


def _initialize(data: Path, accounts: Mapping[str, Sequence[str]]) -> None:
    """Make the databases beside their final place, then move: whole or not at all."""
    draft = data.with_name("cluster.new")
    shutil.rmtree(draft, ignore_errors=True)
    shape = ("--encoding=UTF8", "--locale=C.UTF-8", "--data-checksums", "--no-instructions", "--auth=peer")
    subprocess.run(["initdb", "--pgdata", draft, "--username=postgres", *shape], check=True, stdout=subprocess.DEVNULL)
    _single(draft, [
        "REVOKE CONNECT ON DATABASE postgres FROM PUBLIC;",
        "REVOKE CONNECT ON DATABASE template1 FROM PUBLIC;",
        *(f"CREATE ROLE {user} LOGIN;" for user in accounts),
        *(
            line
            for user, databases in accounts.items()
            for database in databases
            for line in (f"CREATE DATABASE {database} OWNER {user};", f"REVOKE ALL ON DATABASE {database} FROM PUBLIC;")
        ),
    ])  # fmt: skip
    draft.rename(data)


def _single(data: Path, statements: Sequence[str]) -> None:
    """Run SQL without a server; its output has errors, and would have statements with verifiers, so only the first word
    of those is kept."""
    done = subprocess.run(
        ["postgres", "--single", "-D", data, "-c", "log_min_error_statement=panic", "postgres"],
        input="\n".join(statements) + "\n", capture_output=True, text=True, check=False,
    )  # fmt: skip
    errors = [line for line in done.stderr.splitlines() if "ERROR" in line or "FATAL" in line]
    if done.returncode != 0 or errors:
        raise SystemExit(f"PostgreSQL cannot be set up in {data}: {' / '.join(errors) or done.stderr[-300:]}")


def verifier(password: str) -> str:
    """What PostgreSQL keeps of *password* (SCRAM-SHA-256, RFC 5803), so that the password itself is in no statement."""
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, _ROUNDS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    parts = (base64.b64encode(part).decode() for part in (salt, stored, server))
    return "SCRAM-SHA-256${}:{}${}:{}".format(_ROUNDS, *parts)


if __name__ == "__main__":
    sys.exit(main())
