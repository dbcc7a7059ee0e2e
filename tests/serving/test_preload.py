"""A server that is started for one release: the release is in its image, and readiness waits for it."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from serving.preload import unpack
from stores.ledger.migrations import migrate
from stores.releases.bundle import Bundle
from stores.releases.store import ReleaseStore
from tests.serving.asgi import server_of
from tests.serving.conftest import ServerHome
from tests.serving.sample_project import tiny_bundle
from tests.serving.test_failures import ROW
from tests.waiting import eventually


def test_a_server_is_ready_only_once_its_preloaded_release_gives_the_recorded_predictions(place: ServerHome) -> None:
    place.go_live(place.release().digest)
    other = place.release(version=2)
    away = place.home / "away"
    shutil.move(other.path, away)
    place.start(wait_for="/health", TRIMTAB_PRELOAD=other.digest)
    place.wait(lambda: place.get("/live")[1]["champion"] is not None, "the champion")
    status, told = place.get("/ready")
    assert status == 503
    assert other.digest[:12] in told["reasons"][0]
    shutil.move(away, other.path)
    place.wait(lambda: place.get("/ready")[0] == 200, "ready with the release")
    assert place.get("/live")[1]["champion"] != other.digest, "who answers is the ledger's to say"


def test_a_server_of_the_first_release_is_ready_before_the_ledger_names_a_champion(place: ServerHome) -> None:
    place.start(TRIMTAB_PRELOAD=place.release().digest)
    assert place.get("/ready")[0] == 200


def test_a_server_that_cannot_load_the_champion_is_not_ready_despite_its_preloaded_release(place: ServerHome) -> None:
    champion, other = place.release(), place.release(version=2)
    place.go_live(champion.digest)
    away = place.home / "away"
    shutil.move(champion.path, away)
    place.start(wait_for="/health", TRIMTAB_PRELOAD=other.digest)
    place.wait(lambda: "gives the recorded predictions" in place.log_end(), "the release is preloaded")
    place.wait(lambda: champion.digest[:12] in place.get("/ready")[1]["release"], "the champion was looked for")
    status, told = place.get("/ready")
    assert (status, len(told["reasons"])) == (503, 1)
    assert champion.digest[:12] in told["reasons"][0]
    shutil.move(away, champion.path)
    place.wait(lambda: place.get("/ready")[0] == 200, "ready with the champion")
    assert place.post("/predict", ROW)[0] == 200, "who is ready answers"


def test_a_server_is_not_ready_while_the_champion_is_being_loaded(
    place: ServerHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    champion, other = place.release(), place.release(version=2)
    server = server_of(place, preload=other.digest)
    server.preload.run_once()
    assert server.unready_reasons() == []
    really, arrives = ReleaseStore.get, threading.Event()

    def slowly(release_store: ReleaseStore, digest: str) -> Bundle:
        assert arrives.wait(20)
        return really(release_store, digest)

    monkeypatch.setattr(ReleaseStore, "get", slowly)
    place.go_live(champion.digest)
    following = threading.Thread(target=server.follower.run_once)
    following.start()
    reason = f"release {champion.digest[:12]} is live and not loaded yet"
    eventually(lambda: server.unready_reasons() == [reason], "the look at the ledger", within_s=10)
    arrives.set()
    following.join()
    assert server.unready_reasons() == []


def test_a_server_is_not_ready_before_the_ledger_says_that_no_release_is_live(place: ServerHome) -> None:
    """A release may be live, and traffic would move from servers that have it to this one."""
    server = server_of(place, preload=tiny_bundle(place.home / "releases").digest)  # no ledger is there yet
    server.preload.run_once()
    assert server.preload.done
    assert server.unready_reasons() == [server.follower.ledger_trouble]
    migrate(place.ledger)
    server.follower.run_once()
    assert server.unready_reasons() == []
    (place.home / "ledger.db").rename(place.home / "away.db")
    server.follower.run_once()
    assert server.unready_reasons() == [server.follower.ledger_trouble], "what it knew is old"


def test_a_server_of_the_first_release_answers_with_it_once_it_is_live(place: ServerHome) -> None:
    first = place.release()
    server = server_of(place, preload=first.digest)
    server.preload.run_once()
    assert server.unready_reasons() == []
    place.go_live(first.digest)
    server.follower.run_once()
    assert server.unready_reasons() == []
    assert server.live()["champion"] == first.digest


def test_a_release_of_the_image_is_copied_to_the_release_folder(place: ServerHome, tmp_path: Path) -> None:
    baked = tmp_path / "baked"
    digest = tiny_bundle(baked, version=7).digest
    migrate(place.ledger)
    place.start(TRIMTAB_PRELOAD=digest, TRIMTAB_BAKED=str(baked))
    assert (place.home / "releases" / digest / "manifest.json").exists()


def test_unpacking_again_copies_nothing_and_leaves_no_partial_copy(tmp_path: Path) -> None:
    baked, releases = tmp_path / "baked", tmp_path / "releases"
    digest = tiny_bundle(baked).digest
    assert unpack(baked, releases) == [digest]
    assert unpack(baked, releases) == []
    assert [path.name for path in releases.iterdir()] == [digest]
