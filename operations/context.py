"""Where a flow comes in: the only place in this room that reads settings. Everything below takes plain arguments."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from stores.ledger import Ledger
from stores.object_store.store import ObjectStore, ObjectStoreError
from stores.releases.store import ReleaseStore
from stores.telemetry import TelemetryLocation, open_telemetry
from tasks import dataset
from tasks.dataset import Remote
from tasks.model_server import ModelServerClient
from trimtab.config import params
from trimtab.config.params import AlertConfig, Params
from trimtab.config.settings import Settings
from trimtab.data.schema import Schema

PATIENCE_S = 20.0  # a database that died is back sooner


class NotSetUp(RuntimeError):
    """The place is not ready for a flow; the message says what to do."""


@dataclass(frozen=True)
class ProjectContext:
    """A project in its ctx."""

    settings: Settings
    params: Params
    ledger: Ledger

    @property
    def root(self) -> Path:
        """The project's folder."""
        return self.settings.root

    @property
    def workspace(self) -> Path:
        """Where `data/` is laid out: the project, or a folder in the state where the project cannot be written to, as
        in an image."""
        return self.root if os.access(self.root, os.W_OK) else self.settings.state / "workspace"

    @property
    def remote(self) -> Remote | None:
        """DVC's remote in the store; None: the one that the project names."""
        settings = self.settings
        return Remote(f"{settings.store.rstrip('/')}/dvc", settings.store_endpoint) if settings.store else None

    @property
    def tracking(self) -> str:
        """MLflow's address."""
        return self.settings.tracking_uri

    @cached_property
    def releases(self) -> ReleaseStore:
        """Where releases are kept."""
        return ReleaseStore(self.settings.releases, self.object_store)

    @cached_property
    def object_store(self) -> ObjectStore | None:
        """The store behind the state folder, where there is one."""
        store = self.settings.store
        return ObjectStore(store, endpoint=self.settings.store_endpoint) if store else None

    @cached_property
    def telemetry(self) -> TelemetryLocation:
        """Where predictions, labels and pairs are."""
        return open_telemetry(self.settings.telemetry, self.object_store)

    def save_report(self, name: str, page: str) -> str:
        """Keep a page that people read, in the state folder and, where there is one, in the store; where it is. A store
        that is away keeps no flow from going on: the page is in the folder then."""
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

    @property
    def server(self) -> ModelServerClient:
        """The model server, or all of its replicas, with the key that opens it."""
        url = self.settings.server_replicas
        return ModelServerClient(url or self.settings.model_server, self.settings.server_key, is_many=url is not None)

    @property
    def cache(self) -> Path:
        """Where candidates' files are kept once fetched."""
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
        """Who hears alerts: those in params.yaml, and the webhook of the ctx."""
        own = self.settings.webhook_url
        return (*self.params.alerts, *([AlertConfig(kind="webhook", url=own)] if own else []))


def load_context() -> ProjectContext:
    """The project that this process works for. Raises ParamsError or NotSetUp, saying what to do."""
    settings = Settings()
    if settings.ledger_url is None:
        raise NotSetUp("TRIMTAB_LEDGER_URL is not set: run flows through `trimtab run`, or on a worker of `trimtab up`")
    ledger = Ledger(settings.ledger_url.get_secret_value(), patience_s=PATIENCE_S)
    ctx = ProjectContext(settings, params.load(settings.root), ledger)
    if ctx.workspace != ctx.root:
        dataset.init(ctx.workspace)
    return ctx


@contextmanager
def shared_heartbeat() -> Iterator[None]:
    """Flows called inside share their parent's heartbeat: one of their own would cost each up to a second at its end,
    and a process that is lost takes parent and parts with it."""
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield


def short(digest: object) -> str:
    """A digest as people read it."""
    return str(digest)[:12]
