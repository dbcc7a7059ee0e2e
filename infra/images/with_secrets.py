"""Start a program with secrets from files: `python with_secrets.py PROGRAM ARGUMENT...`.

For others' programs, which read a secret from a variable only (ours read the files): for each variable NAME_FILE whose
NAME is in `READ`, NAME becomes the file's content, then this process becomes the program. Nothing is printed but the
names of files that are missing."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

READ = (
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "MLFLOW_FLASK_SERVER_SECRET_KEY", "MLFLOW_TRACKING_PASSWORD",
    "PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING", "PREFECT_SERVER_DATABASE_CONNECTION_URL",
)  # fmt: skip


class Missing(Exception):
    """A file of secrets that cannot be read, or is empty."""


def main(arguments: list[str]) -> int:
    """Become the program; 2 when a secret is missing."""
    try:
        environment = with_contents(os.environ)
    except Missing as error:
        print(f"{arguments[0]} does not start: {error}", file=sys.stderr)
        return 2
    return os.execvpe(arguments[0], arguments, environment)  # nosec B606


def with_contents(environment: Mapping[str, str]) -> dict[str, str]:
    """*environment* with the contents of the files that it names; raises Missing. A variable that is set wins."""
    filled = dict(environment)
    for name in READ:
        file = filled.get(f"{name}_FILE", "")
        if file and not filled.get(name):
            filled[name] = content(f"{name}_FILE", Path(file))
    return filled


def content(name: str, file: Path) -> str:
    """What is in *file*, that the variable *name* names, without the line's end; raises Missing."""
    try:
        text = file.read_text().strip()
    except OSError as error:
        raise Missing(f"{name} names {file}, which cannot be read: {error.strerror}") from error
    if not text:
        raise Missing(f"{name} names {file}, which is empty")
    return text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
