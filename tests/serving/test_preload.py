"""A server that is started for one release: from its image, and ready only with it."""

from __future__ import annotations

import shutil
from pathlib import Path

from serving.preload import unpack
from tests.serving.conftest import Place
from tests.serving.tiny import tiny_bundle


def test_a_server_is_ready_only_once_the_release_that_it_is_started_for_answers_as_recorded(place: Place) -> None:
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


def test_a_server_of_the_first_release_is_ready_before_the_ledger_names_a_champion(place: Place) -> None:
    place.start(TRIMTAB_PRELOAD=place.release().digest)
    assert place.get("/ready")[0] == 200


def test_a_release_that_came_with_the_image_is_put_where_releases_are(place: Place, tmp_path: Path) -> None:
    baked = tmp_path / "baked"
    digest = tiny_bundle(baked, version=7).digest
    place.ledger.create()
    place.start(TRIMTAB_PRELOAD=digest, TRIMTAB_BAKED=str(baked))
    assert (place.home / "releases" / digest / "manifest.json").exists()


def test_unpacking_again_copies_nothing_and_leaves_nothing_half_done(tmp_path: Path) -> None:
    baked, releases = tmp_path / "baked", tmp_path / "releases"
    digest = tiny_bundle(baked).digest
    assert unpack(baked, releases) == [digest]
    assert unpack(baked, releases) == []
    assert [path.name for path in releases.iterdir()] == [digest]
