"""Where things are: addresses, ports and folders. What changes the model lives in `params.yaml`
(`trimtab.params`); what changes the place lives here and comes from `TRIMTAB_*` variables.

Only the doors (cli, flows, serving, deployments) call `Settings()`; everything below them takes
plain arguments."""

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """One place's addresses. An address left empty is served by the embedded stack."""

    model_config = SettingsConfigDict(env_prefix="TRIMTAB_", extra="ignore", frozen=True)

    project: Path = Field(Path(), description="folder with params.yaml")
    home: Path | None = Field(None, description="state folder; default: .trimtab in the project")

    host: str = Field("127.0.0.1", description="address that every embedded server listens on")
    postgres_port: int = Field(5442, ge=1, le=65535)
    prefect_port: int = Field(4200, ge=1, le=65535)
    mlflow_port: int = Field(5000, ge=1, le=65535)
    server_port: int = Field(8000, ge=1, le=65535, description="the model server's port")
    exporter_port: int = Field(9464, ge=1, le=65535, description="where the loop's metrics are, for Prometheus")
    exporter: bool = Field(False, description="run the exporter of these metrics as a part of the stack")

    postgres_url: SecretStr | None = Field(
        None, description="own PostgreSQL: postgresql://user:password@host:port/database"
    )
    ledger_url: SecretStr | None = Field(None, description="SQLAlchemy URL of the ledger; the stack sets it")
    prefect_url: str | None = Field(None, description="own Prefect server: http://host:port/api")
    mlflow_url: str | None = Field(None, description="own MLflow server: http://host:port")
    server_url: str | None = Field(None, description="own model server: http://host:port")

    worker: str = Field(
        "warm", pattern="^(warm|process)$", description="warm: fork flow runs from a loaded process (Linux)"
    )
    work_pool: str = "trimtab"
    trusted_types: tuple[str, ...] = Field(
        (), description="types of the project's own model.py that may be loaded, as a JSON list"
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
        """Where release bundles are, one folder per digest."""
        return self.state / "releases"

    @property
    def telemetry(self) -> Path:
        """Where predictions and labels are."""
        return self.state / "telemetry"

    @property
    def prefect_api(self) -> str:
        """Prefect's API address."""
        return self.prefect_url or f"http://{self.host}:{self.prefect_port}/api"

    @property
    def tracking_uri(self) -> str:
        """MLflow's address."""
        return self.mlflow_url or f"http://{self.host}:{self.mlflow_port}"

    @property
    def model_server(self) -> str:
        """The model server's address."""
        return self.server_url or f"http://{self.host}:{self.server_port}"
