"""A team's place as its tests use it: Compose under a name and on ports of its own, with secrets of its own, and what a
person does there: look into the ledger, ask Prefect, run the command. All of it goes with the test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr

from tests.infra.containers import DOCKER, ROOT, docker
from tests.ports import free_ports
from trimtab.config.sections import ColumnsConfig

_PORTS = ("PROXY_PORT", "PREFECT_PORT", "MLFLOW_PORT", "OBJECTS_PORT", "PROMETHEUS_PORT", "ALERTMANAGER_PORT")
_LEDGER = """
import json
from sqlalchemy import select
from stores.ledger import Ledger, tables
from trimtab.config.settings import Settings
ledger = Ledger(Settings().ledger_url.get_secret_value())
found = {t.name: [dict(r._mapping) for r in ledger.rows(select(t))] for t in tables.metadata.sorted_tables}
print(json.dumps(found, default=str))
"""


@dataclass(frozen=True)
class Team:
    """A running place: *env* is what Compose and the programs in infra/ get."""

    name: str
    secrets: Path
    env: dict[str, str]

    def secret(self, name: str) -> str:
        """What is in a secret's file."""
        return (self.secrets / name).read_text().strip()

    def url(self, port: str) -> str:
        """The address of what listens on the port that .env calls so."""
        return f"http://127.0.0.1:{self.env[port]}"

    def run(self, command: Sequence[str], *, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a program with this place's variables."""
        done = subprocess.run(command, cwd=ROOT, env=self.env, capture_output=True, text=True, check=False, **options)
        assert done.returncode == 0 or not check, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done

    def compose(self, *words: str, check: bool = True, **options: Any) -> str:
        """What `docker compose` prints."""
        command = (DOCKER, "compose", "--file", "infra/compose/compose.yaml", *words)
        return self.run(command, check=check, **options).stdout

    def program(self, name: str, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one of the programs in infra/, as people do."""
        return self.run((sys.executable, f"infra/compose/{name}", *words), check=check)

    def trimtab(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the command inside."""
        base = (DOCKER, "compose", "--file", "infra/compose/compose.yaml", "run", "--rm", "-T", "trimtab")
        return self.run((*base, *words), check=check)

    def inside(self, code: str) -> str:
        """What a Python inside prints, with the addresses and secrets that flows have."""
        compose = (DOCKER, "compose", "--file", "infra/compose/compose.yaml", "exec", "-T", "exporter")
        command = (*compose, "python", "/srv/run_with_secrets.py", "python", "-")
        return self.run(command, input=code).stdout

    def ledger(self) -> dict[str, list[dict[str, Any]]]:
        """Every table of the ledger."""
        return dict(json.loads(self.inside(_LEDGER)))

    def prefect_env(self) -> dict[str, str]:
        """What makes Prefect's command and client work from outside."""
        return {**self.env, "PREFECT_API_URL": f"{self.url('PREFECT_PORT')}/api",
                "PREFECT_API_AUTH_STRING": self.secret("prefect-auth")}  # fmt: skip

    def asked_for(self, deployment: str, *words: str) -> str:
        """Ask for a run with Prefect's own command; the run's id."""
        command = [sys.executable, "-m", "prefect", "deployment", "run", deployment, *words]
        done = subprocess.run(command, env=self.prefect_env(), capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        return next(line.split()[-1] for line in done.stdout.splitlines() if "UUID" in line)

    def runs(self, **wanted: str) -> list[dict[str, Any]]:
        """Flow runs, newest first, whose fields are *wanted*; those that are only planned left out."""
        body = {"sort": "START_TIME_DESC", "limit": 200, "flow_runs": {"state": {"type": {"not_any_": ["SCHEDULED"]}}}}
        found: list[dict[str, Any]] = self.prefect("POST", "/flow_runs/filter", body)
        return [run for run in found if all(run.get(name) == value for name, value in wanted.items())]

    def prefect(self, method: str, path: str, body: Any = None) -> Any:
        """One request to Prefect's API, as its own clients make it: with password and CSRF token."""
        user, _, password = self.secret("prefect-auth").partition(":")
        with httpx.Client(base_url=f"{self.url('PREFECT_PORT')}/api", auth=(user, password), timeout=90) as client:
            token = client.get("/csrf-token", params={"client": "tests"}).raise_for_status().json()["token"]
            sent = {"Prefect-Csrf-Token": token, "Prefect-Csrf-Client": "tests"}
            answer = client.request(method, path, json=body, headers=sent)
        assert answer.is_success, f"{path}: {answer.status_code} {answer.text[:500]}"
        return answer.json() if answer.content else None

    def key(self) -> SecretStr:
        """A key that users have."""
        return SecretStr(self.secret("server-admin").split(",")[0])

    def traffic(self, columns: ColumnsConfig) -> Any:
        """Users of the proxy."""
        from deployments.replay.traffic import Traffic

        return Traffic(self.url("PROXY_PORT"), columns, key=self.key())

    def container(self, service: str, number: int = 1) -> str:
        """The name of a service's container."""
        return f"{self.name}-{service}-{number}"

    def containers_of_runs(self) -> dict[str, str]:
        """The containers that flow runs have now, and the runs' ids."""
        shown = '{{.ID}} {{.Label "io.prefect.flow-run-id"}}'
        found = docker("ps", "--all", "--format", shown, "--filter", f"network={self.name}_default", "--filter",
                       "label=io.prefect.flow-run-id")  # fmt: skip
        return dict(line.split() for line in found.splitlines())

    def named(self, name: str) -> Team:
        """Another place with the same secrets and ports, as after moving to another machine."""
        return replace(self, name=name, env={**self.env, "COMPOSE_PROJECT_NAME": name})

    def up(self, *words: str) -> None:
        """As the README says; what is built already is not built again."""
        self.compose("up", "--detach", "--no-build", "--wait", "--wait-timeout", "300", *words)

    def down(self) -> None:
        """Take it all away, runs' containers too."""
        for container in self.containers_of_runs():
            docker("rm", "--force", "--volumes", container, check=False)
        self.compose("--profile", "command", "down", "--volumes", "--timeout", "20", "--remove-orphans", check=False)


@contextmanager
def place(folder: Path, **env: str) -> Iterator[Team]:
    """A place with its secrets, not up yet; it is taken down at the end."""
    name = f"trimtab-test-{uuid.uuid4().hex[:6]}"
    secrets = folder / "secrets"
    ports = dict(zip(_PORTS, map(str, free_ports(len(_PORTS))), strict=True))
    socket = Path(os.environ.get("DOCKER_SOCKET", "/var/run/docker.sock"))
    given = {**os.environ, "TRIMTAB_DOCKER": DOCKER, "COMPOSE_PROJECT_NAME": name, "TRIMTAB_SECRETS": str(secrets),
             "DOCKER_GID": str(socket.stat().st_gid), "COMPOSE_ENV_FILES": str(folder / ".env"),
             **ports, **env}  # fmt: skip
    team = Team(name, secrets, {k: v for k, v in given.items() if not k.startswith("PREFECT_API")})
    team.program("generate_secrets.py", "--env", str(folder / ".env"), "--secrets", str(secrets))
    try:
        yield team
    finally:
        team.down()
