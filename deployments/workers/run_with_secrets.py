"""Runs a Python module after setting secret variables from files: `python -m deployments.workers.run_with_secrets
prefect.engine`.

For each name in `trimtab.config.secret_files.FOREIGN`, e.g. `PREFECT_API_AUTH_STRING`, the file named in
`PREFECT_API_AUTH_STRING_FILE` is read before the module is imported. Our own settings read their files themselves.
"""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Mapping, Sequence

from trimtab.config.secret_files import FOREIGN, SUFFIX, UnreadableSecret, read_secret


def with_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """*environ* with the secrets from files; a variable that has a value keeps it. Raises UnreadableSecret."""
    secrets = {
        name: read_secret(name + SUFFIX, environ[name + SUFFIX])
        for name in (*FOREIGN, "MLFLOW_TRACKING_USERNAME")
        if environ.get(name + SUFFIX) and name not in environ
    }
    return {**environ, **secrets}


def main(arguments: Sequence[str]) -> int:
    """Run the first argument as a module, with the other arguments; return 2 when a secret is missing."""
    if not arguments:
        print("usage: python -m deployments.workers.run_with_secrets MODULE [ARGUMENT ...]", file=sys.stderr)
        return 2
    try:
        os.environ.update(with_secrets(os.environ))
    except UnreadableSecret as error:
        print(f"{arguments[0]} is not started: {error}", file=sys.stderr)
        return 2
    sys.argv = list(arguments)
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
