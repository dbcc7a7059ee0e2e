"""Settings of an installation from `TRIMTAB_*` variables: addresses, ports and folders.

`params.yaml` (`trimtab.config.params`) has what changes the model. Only entry points (cli, flows, serving,
deployments) and `operations.context` call `Settings()`; all other code takes plain arguments. A secret may come from
a file: `TRIMTAB_LEDGER_URL_FILE` for `TRIMTAB_LEDGER_URL`."""

import ipaddress
import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import NoDecode, SettingsConfigDict, SettingsError

from trimtab.config.secret_files import SettingsWithSecrets


def _split_words(value: Any) -> Any:
    """``a, b`` as well as ``["a", "b"]``."""
    if not isinstance(value, str) or value.lstrip().startswith("["):
        return json.loads(value) if isinstance(value, str) else value
    return [word.strip() for word in value.split(",") if word.strip()]


WordList = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_words)]


class Settings(SettingsWithSecrets):
    """The settings of one installation. The embedded stack serves an address that is not set."""

    model_config = SettingsConfigDict(env_prefix="TRIMTAB_", env_ignore_empty=True, extra="ignore", frozen=True)

    project: Path = Field(Path(), description="folder with params.yaml")
    home: Path | None = Field(None, description="state folder; default: .trimtab in the project")

    host: str = Field("127.0.0.1", description="address that every embedded server listens on")
    postgres_port: int = Field(5442, ge=1, le=65535, description="port of the embedded PostgreSQL")
    prefect_port: int = Field(4200, ge=1, le=65535, description="port of Prefect's API and UI")
    mlflow_port: int = Field(5000, ge=1, le=65535, description="port of MLflow")
    server_port: int = Field(8000, ge=1, le=65535, description="the model server's port")
    s3: bool = Field(False, description="keep data, models and telemetry on an S3 server that the stack starts")
    s3_port: int = Field(8333, ge=1, le=65526, description="the first of ten ports for that S3 server and its parts")
    exporter_port: int = Field(9464, ge=1, le=65535, description="where the loop's metrics are, for Prometheus")
    exporter: bool = Field(False, description="run the exporter of these metrics as a part of the stack")

    postgres_url: SecretStr | None = Field(
        None, description="own PostgreSQL: postgresql://user:password@host:port/database"
    )
    ledger_url: SecretStr | None = Field(None, description="SQLAlchemy URL of the ledger; the stack sets it")
    prefect_url: str | None = Field(None, description="own Prefect server: http://host:port/api")
    mlflow_url: str | None = Field(None, description="own MLflow server: http://host:port")
    server_url: str | None = Field(None, description="own model server: http://host:port")
    server_replicas: str | None = Field(
        None,
        pattern="^http://.+",
        description="http://name:port where each address of the name is a replica, which flows load and probe; "
        "default: server_url, as the only one",
    )
    server_key: SecretStr | None = Field(None, description="key of scope admin for a model server that asks for one")

    store: str | None = Field(
        None,
        pattern="^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?$",
        description="releases, telemetry and reports are kept at s3://bucket/prefix as well",
    )
    store_endpoint: str | None = Field(None, pattern="^https?://.+", description="own S3 server: http://host:port")

    source_endpoint: str | None = Field(
        None, pattern="^https?://.+", description="own S3 server of the source's buckets: http://host:port"
    )
    source_profile: str | None = Field(
        None, description="profile of the AWS credentials file for the source's buckets, where they are not the store's"
    )

    worker: str = Field(
        "warm", pattern="^(warm|process)$", description="warm: fork flow runs from a loaded process (Linux)"
    )
    work_pool: str = Field("trimtab", description="name of the work pool in Prefect")
    pool_type: str = Field(
        "process", pattern="^(process|docker|kubernetes)$", description="where flow runs are carried out"
    )
    image: str | None = Field(None, description="image of flow runs in containers, with its tag or digest")
    image_pull: str = Field(
        "IfNotPresent", pattern="^(IfNotPresent|Always|Never)$", description="when that image is pulled"
    )
    code: str | None = Field(
        None,
        pattern=r"^git\+(https|http|ssh|file)://",
        description="git+https://host/repository.git@branch-or-commit; default: the code that is in the image",
    )
    pool_networks: tuple[str, ...] = Field((), description="Docker networks of flow runs, as a JSON list")
    pool_volumes: tuple[str, ...] = Field((), description="volumes of flow runs, as a JSON list: source:target[:ro]")
    pool_template: Path | None = Field(None, description="base job template of the work pool, instead of ours (JSON)")

    target: str = Field(
        "server", pattern="^(server|docker|kubernetes)$", description="what deploy moves beside the ledger"
    )
    server_image: str | None = Field(None, description="target docker: image of the model server, without a release")
    registry: str | None = Field(None, description="target docker: where images with a release are pushed: host/path")
    docker_network: str = Field("trimtab", description="target docker: network of model servers and their proxy")
    docker_proxy: str = Field("trimtab-proxy", description="target docker: name of the container that is the proxy")
    docker_env: tuple[str, ...] = Field((), description="target docker: NAME=value for model servers, as a JSON list")
    docker_volumes: tuple[str, ...] = Field((), description="target docker: volumes of model servers, as a JSON list")
    replicas: int = Field(1, ge=1, le=20, description="target docker: containers of a release")
    kube_namespace: str = Field("default", description="target kubernetes: namespace of the model server")
    kube_deployment: str = Field("trimtab-server", description="target kubernetes: the model server's Deployment")
    kube_container: str = Field("server", description="target kubernetes: its container")
    kube_config: Path | None = Field(None, description="target kubernetes: kubeconfig; default: the pod's own account")
    ready_s: float = Field(120, gt=0, description="time that a release's containers may take to be ready")
    docker_drain_s: float = Field(
        15, ge=0, description="target docker: time for the last requests of a container that goes"
    )

    trusted_types: WordList = Field(
        (), description="types of the project's own model.py that may be loaded: a,b or a JSON list"
    )
    commit_data: bool = Field(False, description="commit data.dvc in the project's git after each new dataset version")
    scheduled_ingest: bool = Field(True, description="let the nightly ingest run by its schedule")
    webhook_url: SecretStr | None = Field(None, description="alerts are posted here as well, as JSON")

    @property
    def root(self) -> Path:
        """The project's folder, absolute."""
        return self.project.resolve()

    @property
    def state(self) -> Path:
        """The state folder, absolute."""
        return (self.home or self.root / ".trimtab").resolve()

    @property
    def releases(self) -> Path:
        """The folder of release bundles, which has one folder for each digest."""
        return self.state / "releases"

    @property
    def telemetry(self) -> Path:
        """The folder of predictions and labels."""
        return self.state / "telemetry"

    @property
    def url_host(self) -> str:
        """The host as a URL has it: an IPv6 address stands in brackets."""
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def prefect_api(self) -> str:
        """Prefect's API address."""
        return self.prefect_url or f"http://{self.url_host}:{self.prefect_port}/api"

    @property
    def tracking_uri(self) -> str:
        """MLflow's address."""
        return self.mlflow_url or f"http://{self.url_host}:{self.mlflow_port}"

    @property
    def model_server(self) -> str:
        """The model server's address."""
        return self.server_url or f"http://{self.url_host}:{self.server_port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens on *host*.

    >>> is_loopback("127.0.0.1"), is_loopback("0.0.0.0")
    (True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def settings_to_stop() -> tuple[Settings, str | None]:
    """The settings, and why they are wrong if they are. Wrong ones are reduced to the folders, which is enough to find
    a stack and to stop it: `down` and `status` work whatever the settings are."""
    try:
        return Settings(), None
    except (ValidationError, SettingsError) as error:
        wrong = error.errors(include_input=False, include_url=False) if isinstance(error, ValidationError) else []
        named = [f"TRIMTAB_{'_'.join(map(str, each['loc'])).upper()}: {each['msg']}" for each in wrong]
        return Settings.model_construct(**Folders().model_dump()), "; ".join(named) or str(error)


class Folders(SettingsWithSecrets):
    """Where a project and its state are."""

    model_config = SettingsConfigDict(env_prefix="TRIMTAB_", env_ignore_empty=True, extra="ignore", frozen=True)

    project: Path = Path()
    home: Path | None = None
