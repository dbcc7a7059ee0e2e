"""A team's place on Compose, brought up once for all tests that need it, and a week played there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stores.object_store.store import ObjectStore
from tests.infra import week
from tests.infra.containers import build, engine
from tests.infra.played import Week, done, live, play
from tests.infra.team import Team, place
from tests.stores.seaweed import seaweed

__all__ = ["seaweed"]


@pytest.fixture(scope="session")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """The place, up, with two workers and its first days in the bucket."""
    engine()
    folder = tmp_path_factory.mktemp("team")
    build("server", "worker", "postgres", "objects", "proxy", "prometheus", "alertmanager", into=folder / "images")
    project = week.project(folder / "project")
    for path in (folder, folder.parent):
        path.chmod(0o755)
    with place(folder, PROJECT_VOLUME=f"{project}:/srv/trimtab/project:ro", WORKER_LIMIT="3") as made:
        made.up("--scale", "worker=2")
        yield made


@pytest.fixture(scope="session")
def store(team: Team, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """The bucket, with the rights that flows have."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(team.secrets / "store-credentials"))
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
            patch.delenv(name, raising=False)
        yield ObjectStore("s3://trimtab", endpoint=team.url("OBJECTS_PORT"))


@pytest.fixture(scope="session")
def first_model(team: Team, store: ObjectStore) -> str:
    """The first days in, asked for as people do, and a model that answers."""
    days = [week.START.shift(number) for number in range(4)]
    for day in days:
        store.put(f"{week.PREFIX}/{day}.parquet", week.batch(day))
    done(team, team.asked_for("ingest/on-request", "--param", f"period={days[0]}"))
    done(team, team.asked_for("ingest/on-change"))
    done(team, team.asked_for("retrain/nightly"))
    return str(live(team.ledger())["champion"])


@pytest.fixture(scope="session")
def played(team: Team, store: ObjectStore, first_model: str) -> Week:
    """Seven nights, with what they left."""
    return play(team, store)
