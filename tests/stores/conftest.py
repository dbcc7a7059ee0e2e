"""A ledger of its own for every test, on SQLite and on a real PostgreSQL; machines with a store between them."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from deployments import stack
from stores.ledger import Ledger
from stores.ledger.migrations import migrate
from stores.object_store.store import ObjectStore
from stores.telemetry import SharedTelemetry
from tests.ports import free_port
from tests.stores.proxy import Proxy, proxied
from tests.stores.seaweed import Seaweed, seaweed, shorten_retries
from trimtab.config.settings import Settings

__all__ = ["seaweed"]
MakeUrl = Callable[[Path], str]


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """The settings of a stack that has its PostgreSQL only."""
    folder = tmp_path_factory.mktemp("ledger-postgres")
    ports = {f"{name}_port": free_port() for name in ("postgres", "prefect", "mlflow", "server")}
    settings = Settings.model_validate({"project": folder, "home": folder / "state", **ports})
    stack.up(settings, echo=print, only=["postgres"])
    yield settings
    stack.erase(settings, echo=print)


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of an empty database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'ledger.db'}"
        return
    base = sa.make_url(stack.ledger_url(request.getfixturevalue("postgres")))
    name = f"test_{uuid.uuid4().hex}"
    admin = sa.create_engine(base, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with admin.connect() as db:
        db.execute(sa.text(f"CREATE DATABASE {name}"))
    yield base.set(database=name).render_as_string(hide_password=False)
    with admin.connect() as db:
        db.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
def ledger(ledger_url: str) -> Ledger:
    """An empty ledger."""
    made = Ledger(ledger_url)
    migrate(made)
    return made


@pytest.fixture
def proxy(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A connection to the server that can be spoiled."""
    shorten_retries(monkeypatch)
    with proxied(seaweed.port) as one:
        yield one


@pytest.fixture
def objects(seaweed: Seaweed) -> ObjectStore:
    return seaweed.objects()


@pytest.fixture
def here(tmp_path: Path, objects: ObjectStore) -> SharedTelemetry:
    """The machine that records."""
    return SharedTelemetry(tmp_path / "here", objects)


@pytest.fixture
def elsewhere(tmp_path: Path, objects: ObjectStore) -> SharedTelemetry:
    """Another machine."""
    return SharedTelemetry(tmp_path / "elsewhere", objects)
