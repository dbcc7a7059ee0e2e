"""Start a Python module in a container, with the secrets of other people's programs read from files.

`python -m deployments.workers.run_with_secrets prefect.engine`: `PREFECT_API_AUTH_STRING_FILE` becomes
`PREFECT_API_AUTH_STRING`, and so for every variable in `trimtab.config.secret_files.FOREIGN`, before the module is
imported. Our own settings read their files themselves. Nothing heavy is imported here."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Mapping, Sequence

from trimtab.config.secret_files import FOREIGN, SUFFIX, UnreadableSecret, read_secret


def revealed(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of others that files give; one that has a value already keeps it. Raises UnreadableSecret."""
    return {
        name: read_secret(name + SUFFIX, environ[name + SUFFIX])
        for name in (*FOREIGN, "MLFLOW_TRACKING_USERNAME")
        if environ.get(name + SUFFIX) and name not in environ
    }


def main(arguments: Sequence[str]) -> int:
    """Become the module that is named first, with the rest as its arguments; 2 when a secret is missing."""
    if not arguments:
        print("usage: python -m deployments.workers.run_with_secrets MODULE [ARGUMENT ...]", file=sys.stderr)
        return 2
    try:
        os.environ.update(revealed(os.environ))
    except UnreadableSecret as error:
        print(f"{arguments[0]} is not started: {error}", file=sys.stderr)
        return 2
    sys.argv = list(arguments)
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
