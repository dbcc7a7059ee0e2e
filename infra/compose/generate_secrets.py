"""Make what infra/compose/compose.yaml needs and git must not have: .env and the secrets. Needs nothing but Python.

    python3 infra/compose/generate_secrets.py [--env FILE] [--secrets FOLDER] [--pager URL] [--tickets URL]

What is there stays as it is, so this can be run again at any time; delete a file to get a new secret
(docs/how-to/compose.md says how to change each without downtime). The folder can be entered by its owner only; the
files in it can be read by containers, which run as other users, and by no other user."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import stat
import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
LISTS = ("server-admin", "server-predict", "server-labels")
FLOWS_KEY = "flows-admin"  # the one of server-admin that flows send: the first


def main(arguments: list[str]) -> int:
    """Make what is missing, and say what was made."""
    parser = argparse.ArgumentParser(description="Make .env and the secrets that infra/compose/compose.yaml needs.")
    parser.add_argument("--env", type=Path, default=HERE / ".env", help="the file that Compose reads")
    parser.add_argument("--secrets", type=Path, default=HERE / "secrets", help="the folder of the secrets")
    parser.add_argument("--pager", default="", help="webhook for alerts that cannot wait")
    parser.add_argument("--tickets", default="", help="webhook for alerts that can wait until morning")
    given = parser.parse_args(arguments)
    made = [
        *environment(given.env, given.secrets.resolve()),
        *keep(given.secrets, {"pager.url": given.pager, "tickets.url": given.tickets}),
    ]
    print(f"made: {', '.join(made)}" if made else "everything was there already")
    return 0


def environment(file: Path, folder: Path) -> list[str]:
    """Have *file*: .env.example, with the secrets' folder and the engine's group where nothing is filled in; what was
    made."""
    socket = Path(os.environ.get("DOCKER_SOCKET", "/var/run/docker.sock"))
    found = {"TRIMTAB_SECRETS": str(folder), "DOCKER_GID": str(socket.stat().st_gid if socket.exists() else 0)}
    before = file.read_text() if file.exists() else None
    text = (HERE / ".env.example").read_text() if before is None else before
    for name, value in found.items():
        text = text.replace(f"\n{name}=\n", f"\n{name}={value}\n")
    if text == before:
        return []
    file.write_text(text)
    return [file.name]


def keep(folder: Path, addresses: dict[str, str]) -> list[str]:
    """Make the secrets that are not in *folder*, and those that follow from others anew; the names of the new ones."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if stat.S_IMODE(folder.stat().st_mode) & 0o077:
        raise SystemExit(f"others may enter {folder}, which will hold secrets: chmod 700 {folder}")
    made = []
    for name, make in _MADE.items():
        if not (folder / name).exists():
            _write(folder / name, make())
            made.append(name)
    for name, address in addresses.items():
        if address or not (folder / name).exists():
            _write(folder / name, address)
            made.append(name)
    for name, follow in _FOLLOWING.items():
        text = follow(lambda other: (folder / other).read_text().strip())
        if not (folder / name).exists() or (folder / name).read_text().strip() != text:
            _write(folder / name, text)
            made.append(name)
    return made


def _write(file: Path, text: str) -> None:
    """Whole or not at all."""
    draft = file.with_name(f".{file.name}.new")
    draft.write_text(f"{text}\n" if text else "")
    draft.chmod(0o644)
    draft.rename(file)


def new_key() -> str:
    """A long random text."""
    return secrets.token_urlsafe(32)


def keys_of(text: str) -> list[str]:
    """The keys of a list as the servers read it: one a line, with commas, or as a JSON list."""
    if text.lstrip().startswith("["):
        return [str(key) for key in json.loads(text)]
    return [key.strip() for key in text.replace("\n", ",").split(",") if key.strip()]


def _first(name: str, text: str) -> str:
    if not (keys := keys_of(text)):
        raise SystemExit(f"{name} holds no key: write one into it, or delete it to get a new one")
    return keys[0]


def _pair() -> str:
    """Credentials for S3, in the form that all of AWS's tools read."""
    identity, key = secrets.token_hex(10).upper(), secrets.token_urlsafe(30)
    return f"[default]\naws_access_key_id = {identity}\naws_secret_access_key = {key}"


def _database(user: str, driver: str, database: str) -> Callable[[Callable[[str], str]], str]:
    return lambda read: f"postgresql+{driver}://{user}:{read(f'postgres-{user}')}@postgres:5432/{database}"


_MADE: dict[str, Callable[[], str]] = {
    "postgres-prefect": new_key,
    "postgres-mlflow": new_key,
    "postgres-ledger": new_key,
    "prefect-auth": lambda: f"trimtab:{new_key()}",
    "mlflow-admin": new_key,
    "mlflow-flows": new_key,
    "mlflow-flask": new_key,
    "store-admin": _pair,
    "store-credentials": _pair,
    "store-mlflow": _pair,
    **dict.fromkeys(LISTS, new_key),
}
_FOLLOWING: dict[str, Callable[[Callable[[str], str]], str]] = {
    "prefect-database": _database("prefect", "asyncpg", "prefect"),
    "mlflow-database": _database("mlflow", "psycopg", "mlflow"),
    "mlflow-accounts-database": _database("mlflow", "psycopg", "mlflow_accounts"),
    "ledger-url": _database("ledger", "psycopg", "ledger"),
    FLOWS_KEY: lambda read: _first(LISTS[0], read(LISTS[0])),
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
