"""The work pool: flow runs as processes, Docker containers or Kubernetes jobs, by `TRIMTAB_POOL_TYPE`. The deployments
(`deployments.definitions`) are the same for all three.

A run in a container gets addresses as variables and secrets as names of mounted files. The value of a secret never
becomes a job variable, because Prefect shows job variables to everyone who can view a deployment.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.runner.storage import GitRepository, LocalStorage, RunnerStorage

from trimtab.config.run_with_secrets import CREDENTIALS, SUFFIX
from trimtab.config.secret_files import holds_secret, secret_fields
from trimtab.config.settings import Settings

RETRAIN_QUEUE = "retrain"
IMAGE_CODE = "/srv/code"  # our code in the worker's image
STATE, PROJECT = "/srv/trimtab/state", "/srv/trimtab/project"
SCRATCH = "/tmp"  # nosec B108 # inside a container of one run
_CLONED = f"{SCRATCH}/code"
_PYTHON = ["python"]  # the image's own entrypoint starts a worker
_ENGINE = "-m trimtab.config.run_with_secrets python -m prefect.engine"
# On Kubernetes a supervisor process reports a run whose pod is evicted.
_SUPERVISED = "-m trimtab.config.run_with_secrets python -m prefect flow-run execute"
_MACHINE_SETTINGS = {
    "project", "home", "host", "postgres_port", "prefect_port", "mlflow_port", "server_port", "postgres_url", "worker",
    "work_pool", "pool_type", "pool_networks", "pool_volumes", "pool_template", "image_pull", "code",
}  # fmt: skip
_COPIED_PREFIXES = ("AWS_", "DVC_", "MLFLOW_")
_PASSWORD_IN_URL = re.compile(r"://[^/@]*:[^/@]*@")


class InvalidWorkPool(RuntimeError):
    """The settings ask for a work pool that cannot exist; the message says what to change."""


@dataclass(frozen=True)
class WorkPoolSpec:
    """The pool's type and base job template, and every deployment's job variables and code storage."""

    kind: str
    job_variables: Mapping[str, Any]
    code: RunnerStorage | None = None
    template: Mapping[str, Any] = field(default_factory=dict)


def work_pool_spec(settings: Settings, environ: Mapping[str, str]) -> WorkPoolSpec:
    """The work pool that *settings* describe. Runs get the secret file names in *environ*, the registering process's.

    Raises InvalidWorkPool.
    """
    if settings.pool_type == "process":
        return WorkPoolSpec("process", {"command": f"{sys.executable} -m prefect.engine"})
    if settings.image is None:
        raise InvalidWorkPool(
            f"TRIMTAB_POOL_TYPE={settings.pool_type} runs flows in containers: name their image in TRIMTAB_IMAGE"
        )
    variables = {
        "image": settings.image,
        "image_pull_policy": settings.image_pull,
        "env": container_environment(settings, environ),
    }
    if settings.pool_type == "docker":
        variables |= {
            "command": _ENGINE,
            "networks": list(settings.pool_networks),
            "volumes": [*settings.pool_volumes, *_anonymous_volumes(settings.pool_volumes)],
        }
    else:
        variables |= {"command": _SUPERVISED}
    return WorkPoolSpec(settings.pool_type, variables, _storage(settings), _template(settings))


def container_environment(settings: Settings, environ: Mapping[str, str]) -> dict[str, str | None]:
    """Environment variables of a run in a container; None removes one that Prefect's worker would pass on.

    Variables of AWS, DVC and MLflow are copied unless they hold a secret, judged by their name or by a password in a
    URL. Raises InvalidWorkPool when a secret that runs need is given as a value.
    """
    secrets = {f"TRIMTAB_{name.upper()}" for name in secret_fields(Settings) if name not in _MACHINE_SETTINGS}
    given_as_value = [
        name for name in sorted({*secrets, *CREDENTIALS}) if environ.get(name) and not environ.get(name + SUFFIX)
    ]  # fmt: skip
    if given_as_value:
        raise InvalidWorkPool(
            f"{', '.join(given_as_value)}: flow runs in containers get secrets from files only, because Prefect shows "
            f"job variables; set {given_as_value[0]}{SUFFIX} to the file's path in the container, and mount it there "
            "(TRIMTAB_POOL_VOLUMES, or the chart's secretName)"
        )
    own_settings = {
        f"TRIMTAB_{name.upper()}": _text(getattr(settings, name))
        for name in sorted(settings.model_fields_set - _MACHINE_SETTINGS - set(secret_fields(Settings)))
    }
    references = {
        name + SUFFIX: environ[name + SUFFIX] for name in (*secrets, *CREDENTIALS) if environ.get(name + SUFFIX)
    }
    foreign = {
        name: value
        for name, value in environ.items()
        if name.startswith(_COPIED_PREFIXES) and not holds_secret(name) and not _PASSWORD_IN_URL.search(value)
    }
    hidden: dict[str, str | None] = {"PREFECT_API_AUTH_STRING": None, "PREFECT_API_KEY": None}
    cloned = {"PYTHONPATH": _CLONED, "TRIMTAB_PROJECT": _CLONED} if settings.code else {}
    ours = {
        "HOME": SCRATCH,
        "DVC_SITE_CACHE_DIR": f"{STATE}/dvc-site",
        "PREFECT_HOME": f"{STATE}/prefect",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        "MLFLOW_TRACKING_URI": settings.tracking_uri,
    }
    return {**foreign, **ours, **own_settings, **references, **cloned, **hidden}


def _anonymous_volumes(volumes: Sequence[str]) -> list[str]:
    """Folders that a run writes to, unless mounted: as volumes with the image's content, removed with the container."""
    mounted = {volume.split(":")[min(1, volume.count(":"))] for volume in volumes}
    return [folder for folder in (STATE, PROJECT) if folder not in mounted]


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return json.dumps(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _storage(settings: Settings) -> RunnerStorage:
    if settings.code is None:
        return LocalStorage(IMAGE_CODE)
    parts = urlsplit(settings.code.removeprefix("git+"))
    if parts.password or (parts.username and parts.scheme in ("http", "https")):  # where a token stands for the user
        raise InvalidWorkPool(
            "TRIMTAB_CODE holds a password or a token: give git its credentials in the image or by a mounted file"
        )
    path, _, ref = parts.path.partition("@")
    is_commit = re.fullmatch("[0-9a-f]{40}", ref) is not None
    return GitRepository(
        url=parts._replace(path=path).geturl(), name=Path(_CLONED).name,
        branch=ref if ref and not is_commit else None, commit_sha=ref if is_commit else None,
    )  # fmt: skip


def _template(settings: Settings) -> dict[str, Any]:
    if settings.pool_template is not None:
        try:
            return dict(json.loads(settings.pool_template.read_text()))
        except (OSError, ValueError) as error:
            raise InvalidWorkPool(f"TRIMTAB_POOL_TEMPLATE={settings.pool_template} is no JSON file: {error}") from error
    if settings.pool_type == "docker":
        from prefect_docker.worker import DockerWorker

        template: dict[str, Any] = DockerWorker.get_default_base_job_template()
        template["variables"]["properties"]["container_create_kwargs"]["default"] = {
            "entrypoint": _PYTHON, "working_dir": SCRATCH, "init": True, "read_only": True,
            "tmpfs": {SCRATCH: "mode=1777"}, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges"],
        }  # fmt: skip
        return template
    from prefect_kubernetes.worker import KubernetesWorker

    jobs: dict[str, Any] = KubernetesWorker.get_default_base_job_template()
    jobs["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]["containers"][0]["command"] = _PYTHON
    return jobs


def ensure_work_pool(client: SyncPrefectClient, name: str, pool: WorkPoolSpec) -> None:
    """Create or update the work pool, and the queue in which only one retrain runs at a time. Safe to repeat.

    Raises InvalidWorkPool when a pool of that name has another type, which Prefect cannot change.
    """
    try:
        found = client.read_work_pool(name)
    except ObjectNotFound:
        with suppress(ObjectAlreadyExists):
            client.create_work_pool(WorkPoolCreate(name=name, type=pool.kind, base_job_template=dict(pool.template)))
        found = client.read_work_pool(name)
    if found.type != pool.kind:
        raise InvalidWorkPool(
            f"the work pool {name!r} is of type {found.type}, not {pool.kind}: choose another name with "
            f"TRIMTAB_WORK_POOL, or `prefect work-pool delete {name}` first"
        )
    if pool.template and found.base_job_template != pool.template:
        client.update_work_pool(name, WorkPoolUpdate(base_job_template=dict(pool.template)))
    # This limit only saves work, as a worker may report late; the ledger's claims exclude two retrains.
    with suppress(ObjectAlreadyExists):
        client.create_work_queue(RETRAIN_QUEUE, work_pool_name=name, concurrency_limit=1)
