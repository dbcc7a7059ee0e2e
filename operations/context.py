"""The context of a flow run, built from the settings. Nothing else in operations and flows reads settings."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from stores.ledger import Ledger
from stores.object_store.store import ObjectStore, ObjectStoreError
from stores.releases.store import ReleaseStore
from stores.telemetry import TelemetryLocation, open_telemetry
from tasks import alerts, dataset, orchestrator
from tasks.dataset import Remote
from tasks.model_server import ModelServerClient
from trimtab.config import params
from trimtab.config.params import Params
from trimtab.config.sections import AlertConfig
from trimtab.config.settings import Settings
from trimtab.data.schema import Schema

PATIENCE_S = 20.0  # longer than a restarted database takes


class NotSetUp(RuntimeError):
    """The project is not ready for a flow; the message says what to do."""


@dataclass(frozen=True)
class ProjectContext:
    """A project with its settings, params.yaml and ledger, and everything that follows from them."""

    settings: Settings
    params: Params
    ledger: Ledger

    @property
    def root(self) -> Path:
        """The project's folder."""
        return self.settings.root

    @property
    def workspace(self) -> Path:
        """The folder that holds `data/`: the project, or one in the state folder where the project is read-only, as
        in an image."""
        return self.root if os.access(self.root, os.W_OK) else self.settings.state / "workspace"

    @property
    def remote(self) -> Remote | None:
        """DVC's remote in the object store; None for the remote that the project names."""
        settings = self.settings
        return Remote(f"{settings.store.rstrip('/')}/dvc", settings.store_endpoint) if settings.store else None

    @property
    def tracking(self) -> str:
        """MLflow's tracking URI."""
        return self.settings.tracking_uri

    @cached_property
    def releases(self) -> ReleaseStore:
        """The release store."""
        return ReleaseStore(self.settings.releases, self.object_store)

    @cached_property
    def object_store(self) -> ObjectStore | None:
        """The object store of the settings; None where everything is in the state folder."""
        store = self.settings.store
        return ObjectStore(store, endpoint=self.settings.store_endpoint) if store else None

    @cached_property
    def telemetry(self) -> TelemetryLocation:
        """The location of predictions, labels and pairs."""
        return open_telemetry(self.settings.telemetry, self.object_store)

    @property
    def server(self) -> ModelServerClient:
        """The model server or all of its replicas, with the key for it."""
        url = self.settings.server_replicas
        return ModelServerClient(url or self.settings.model_server, self.settings.server_key, is_many=url is not None)

    @property
    def cache(self) -> Path:
        """The folder for files of candidates that were downloaded from MLflow."""
        return self.settings.state / "cache"

    @property
    def schema(self) -> Schema:
        """The project's reviewed schema. Raises NotSetUp when there is none yet."""
        path = self.root / "schema.yaml"
        if not path.exists():
            raise NotSetUp(f"{path} does not exist yet: validate a first batch, which infers it, and review it")
        return Schema.loads(path.read_text(), name=str(path))

    @property
    def alert_channels(self) -> tuple[AlertConfig, ...]:
        """The channels of params.yaml, and the webhook of the settings."""
        own = self.settings.webhook_url
        return (*self.params.alerts, *([AlertConfig(kind="webhook", url=own)] if own else []))

    def raise_alert(self, id: str, *, kind: str, message: str, evidence: Mapping[str, Any]) -> bool:
        """Record an alert and send it to every channel; False when the same alert was raised before.

        The project's name is put before *message*.
        """
        return alerts.raise_alert(
            self.ledger, self.alert_channels, id=id, kind=kind, message=f"{self.params.project.name}: {message}",
            evidence=evidence,
        )  # fmt: skip

    def emit(self, event: str, *, id: str, payload: Mapping[str, Any]) -> None:
        """Emit an event of the project; *id* names the fact that it is about."""
        orchestrator.emit(event, project=self.params.project.name, id=id, payload=payload)

    def save_report(self, name: str, page: str) -> str:
        """Save an HTML page in the state folder and in the object store, where there is one; its address.

        When the object store does not answer, the page is only in the folder, and this is printed.
        """
        path = self.settings.state / "reports" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page)
        if self.object_store is None:
            return str(path)
        try:
            self.object_store.put(f"reports/{name}", path)
        except ObjectStoreError as error:
            print(f"The report stays in {path}: {error}")
            return str(path)
        return f"{self.object_store.url}/reports/{name}"


def load_context() -> ProjectContext:
    """The context of this process's project. Raises ParamsError, NotSetUp or ForeignLedger, which say what to do."""
    settings = Settings()
    if settings.ledger_url is None:
        raise NotSetUp("TRIMTAB_LEDGER_URL is not set: run flows through `trimtab run`, or on a worker of `trimtab up`")
    ledger = Ledger(settings.ledger_url.get_secret_value(), patience_s=PATIENCE_S)
    ctx = ProjectContext(settings, params.load(settings.root), ledger)
    ledger.require_project(ctx.params.project.name)
    if ctx.workspace != ctx.root:
        dataset.init(ctx.workspace)
    return ctx


@contextmanager
def shared_heartbeat() -> Iterator[None]:
    """Let flows that are called inside share their parent's heartbeat.

    A heartbeat of their own would cost each of them up to a second at its end, and when a process is lost its flow run
    and the runs inside it end together anyway.
    """
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield


def short(digest: object) -> str:
    """The first 12 characters of a digest, for people."""
    return str(digest)[:12]
