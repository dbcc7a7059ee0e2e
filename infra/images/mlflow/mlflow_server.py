"""Become MLflow's server with accounts (its basic-auth application), as one process. Secrets come from files:

    MLFLOW_DATABASE_URL_FILE, MLFLOW_ACCOUNTS_DATABASE_URL_FILE, MLFLOW_AUTH_ADMIN_PASSWORD_FILE,
    MLFLOW_FLASK_SERVER_SECRET_KEY_FILE

and MLFLOW_ARTIFACTS says where artifacts go (s3://…). The accounts' settings are a file that MLflow reads; it is made
anew at every start, in memory. The private variables are how `mlflow server` hands its options to the application
(MLflow 3.17)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from run_with_secrets import UnreadableSecret, read_secret

_SETTINGS = Path("/run/scratch/accounts.ini")


def main() -> int:
    """Become the server; 2 when something is missing."""
    try:
        store = _secret("MLFLOW_DATABASE_URL")
        secrets = {
            "_MLFLOW_SERVER_FILE_STORE": store,
            "_MLFLOW_SERVER_REGISTRY_STORE": store,
            "MLFLOW_AUTH_ADMIN_PASSWORD": _secret("MLFLOW_AUTH_ADMIN_PASSWORD"),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": _secret("MLFLOW_FLASK_SERVER_SECRET_KEY"),
        }
        accounts = _secret("MLFLOW_ACCOUNTS_DATABASE_URL")
        artifacts = os.environ["MLFLOW_ARTIFACTS"]
    except UnreadableSecret as error:
        print(f"MLflow does not start: {error}", file=sys.stderr)
        return 2
    except KeyError as error:
        print(f"MLflow does not start: {error.args[0]} is not set", file=sys.stderr)
        return 2
    _SETTINGS.unlink(missing_ok=True)
    with os.fdopen(os.open(_SETTINGS, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        url = accounts.replace("%", "%%")
        file.write(f"[mlflow]\ndefault_permission = READ\ndatabase_uri = {url}\nadmin_username = admin\n")
    environment = {
        **os.environ,
        **secrets,
        "MLFLOW_AUTH_CONFIG_PATH": str(_SETTINGS),
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": artifacts,
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "_MLFLOW_SGI_NAME": "uvicorn",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    listen = ("--host", "0.0.0.0", "--port", "5000", "--log-level", "warning", "--timeout-graceful-shutdown", "5")  # nosec B104
    command = ["python", "-P", "-m", "uvicorn", *listen, "--factory", "mlflow.server.auth:create_app"]
    return os.execvpe(command[0], command, environment)  # nosec B606


def _secret(name: str) -> str:
    return read_secret(f"{name}_FILE", Path(os.environ[f"{name}_FILE"]))


if __name__ == "__main__":
    sys.exit(main())
