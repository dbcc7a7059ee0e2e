"""A Prefect server of its own for this room's tests, on PostgreSQL: with SQLite a poll of the worker waits a minute for
a lock now and then."""

from collections.abc import Iterator

import pytest

from deployments import stack
from tests.ports import free_ports
from trimtab.settings import Settings


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """API address of a Prefect server that lives as long as the session."""
    folder = tmp_path_factory.mktemp("prefect")
    postgres, prefect = free_ports(2)
    settings = Settings(project=folder, home=folder / "state", postgres_port=postgres, prefect_port=prefect)
    try:
        stack.up(settings, echo=print, only=["postgres", "prefect"])
        yield settings.prefect_api
    finally:
        stack.erase(settings, echo=print)
