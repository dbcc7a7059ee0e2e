"""Secrets from files: NAME_FILE names a file that holds what the variable NAME would. Docker and Kubernetes mount
secrets as files, where neither `docker inspect` nor a process list shows them.

`python -m trimtab.config.run_with_secrets PROGRAM ARGUMENT...` starts a program that reads its secrets from variables
only, such as Prefect or MLflow. Our own settings read the files themselves (`trimtab.config.secret_files`). The images
copy this file and run it alone, so it imports the standard library only."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

SUFFIX = "_FILE"
CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "PREFECT_API_AUTH_STRING",
    "PREFECT_API_KEY",
)
"""Variables in which other programs' clients expect a secret."""
READ = (
    *CREDENTIALS,
    "MLFLOW_FLASK_SERVER_SECRET_KEY",
    "MLFLOW_TRACKING_USERNAME",
    "PREFECT_SERVER_API_AUTH_STRING",
    "PREFECT_SERVER_DATABASE_CONNECTION_URL",
)
"""Variables that a program finds set from files."""


class UnreadableSecret(ValueError):
    """A variable names a file from which no secret can be read. The message names both, never the file's content."""


def read_secret(variable: str, path: str | Path) -> str:
    """The content of the file *path*, without the white space around it: editors end files with a new line.

    *variable* is what named the file. Raises UnreadableSecret.
    """
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise UnreadableSecret(f"{variable} names {path}, which cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UnreadableSecret(f"{variable} names {path}, which is no text") from error
    if not text:
        raise UnreadableSecret(f"{variable} names {path}, which is empty")
    return text


def secrets_from_files(names: Iterable[str], environ: Mapping[str, str]) -> dict[str, str]:
    """The secrets of those *names* for which *environ* names a file. Raises UnreadableSecret."""
    return {name: read_secret(name + SUFFIX, path) for name in names if (path := environ.get(name + SUFFIX))}


def with_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """*environ* with the variables in `READ` that files give; one that has a value keeps it.

    Raises UnreadableSecret.
    """
    return {**environ, **secrets_from_files([name for name in READ if not environ.get(name)], environ)}


def main(arguments: Sequence[str]) -> int:
    """Become the program that is named first, with the rest as its arguments; 2 when a secret is missing."""
    if not arguments:
        print("usage: run_with_secrets PROGRAM [ARGUMENT ...]", file=sys.stderr)
        return 2
    try:
        environ = with_secrets(os.environ)
    except UnreadableSecret as error:
        print(f"{arguments[0]} is not started: {error}", file=sys.stderr)
        return 2
    return os.execvpe(arguments[0], list(arguments), environ)  # nosec B606 # what the caller wants started


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
