"""Releases behind a store: fetched once, whole and right, or not at all."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from stores.object_store.s3 import parse_url
from stores.object_store.store import ObjectStore
from stores.releases import bundle as bundle_module
from stores.releases.bundle import MANIFEST, Bundle, CorruptRelease, UnknownRelease, UnreachableRelease
from stores.releases.store import ReleaseStore
from tests.serving.sample_project import tiny_bundle
from tests.stores.proxy import Proxy
from tests.stores.seaweed import Seaweed
from trimtab.model.release import MODEL


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("releases"))


def content_of(bundle: Bundle) -> dict[str, Any]:
    files = {name: bundle.read(name) for name in bundle.manifest.files}
    fields = bundle.manifest.model_dump(mode="json", exclude={"files"})
    return {"manifest_fields": fields, "files": files}


def kept(made: Bundle, folder: Path, objects: ObjectStore) -> ReleaseStore:
    """A release_store that the release was written to."""
    release_store = ReleaseStore(folder, objects)
    assert release_store.put(**content_of(made)).digest == made.digest
    return release_store


def damage(seaweed: Seaweed, objects: ObjectStore, key: str) -> None:
    """Change an object's last byte but one, with all that is noted about it left as it was."""
    bucket, prefix = parse_url(objects.url)
    answer = seaweed.client.get_object(Bucket=bucket, Key=prefix + key)
    content = bytearray(answer["Body"].read())
    content[-2] ^= 1
    seaweed.client.put_object(Bucket=bucket, Key=prefix + key, Body=bytes(content), Metadata=answer["Metadata"])


def visible(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def test_what_one_machine_writes_another_opens(seaweed: Seaweed, made: Bundle, tmp_path: Path) -> None:
    kept(made, tmp_path / "here", objects := seaweed.objects())
    there = ReleaseStore(tmp_path / "there", objects)
    assert there.get(made.digest).manifest == made.manifest
    assert there.get(made.digest).read(MODEL) == made.read(MODEL)


def test_what_is_there_is_opened_without_the_store(
    seaweed: Seaweed, proxy: Proxy, made: Bundle, tmp_path: Path
) -> None:
    kept(made, tmp_path / "here", objects := seaweed.objects())
    there = ReleaseStore(tmp_path / "there", ObjectStore(objects.url, endpoint=proxy.endpoint, attempts=1))
    there.get(made.digest)
    proxy.leave()
    assert there.get(made.digest).digest == made.digest


def test_a_release_that_is_nowhere_is_unknown(seaweed: Seaweed, tmp_path: Path) -> None:
    for digest in ("0" * 64, "../../etc", ""):
        with pytest.raises(UnknownRelease):
            ReleaseStore(tmp_path, seaweed.objects()).get(digest)
    assert not visible(tmp_path)


def test_without_its_manifest_a_release_is_not_there_yet(seaweed: Seaweed, made: Bundle, tmp_path: Path) -> None:
    kept(made, tmp_path / "here", objects := seaweed.objects())
    objects.remove([f"releases/{made.digest}/{MANIFEST}"])
    with pytest.raises(UnknownRelease):
        ReleaseStore(tmp_path / "there", objects).get(made.digest)


@pytest.mark.parametrize("name", [MANIFEST, MODEL])
def test_a_damaged_object_is_named_and_never_opened(seaweed: Seaweed, made: Bundle, tmp_path: Path, name: str) -> None:
    kept(made, tmp_path / "here", objects := seaweed.objects())
    damage(seaweed, objects, f"releases/{made.digest}/{name}")
    with pytest.raises(CorruptRelease, match=name):
        ReleaseStore(tmp_path / "there", objects).get(made.digest)
    assert not visible(tmp_path / "there")


def test_an_object_that_is_another_one_altogether_is_never_opened(
    seaweed: Seaweed, made: Bundle, tmp_path: Path
) -> None:
    kept(made, tmp_path / "here", objects := seaweed.objects())
    objects.put(f"releases/{made.digest}/{MODEL}", b"a model of somebody else")
    with pytest.raises(CorruptRelease, match=MODEL):
        ReleaseStore(tmp_path / "there", objects).get(made.digest)
    assert not visible(tmp_path / "there")


def test_writing_again_mends_what_was_damaged_in_the_store(seaweed: Seaweed, made: Bundle, tmp_path: Path) -> None:
    release_store = kept(made, tmp_path / "here", objects := seaweed.objects())
    damage(seaweed, objects, f"releases/{made.digest}/{MODEL}")
    objects.remove([f"releases/{made.digest}/{MANIFEST}"])
    release_store.put(**content_of(made))
    assert ReleaseStore(tmp_path / "there", objects).get(made.digest).read(MODEL) == made.read(MODEL)


@pytest.mark.parametrize("what", ["changed", "removed"])
def test_a_damaged_copy_is_replaced_from_the_store(seaweed: Seaweed, made: Bundle, tmp_path: Path, what: str) -> None:
    release_store = kept(made, tmp_path, seaweed.objects())
    model = tmp_path / made.digest / MODEL
    if what == "removed":
        model.unlink()
    else:
        model.write_bytes(b"something else")
    assert release_store.get(made.digest).read(MODEL) == made.read(MODEL)
    assert visible(tmp_path) == {made.digest}


def test_a_store_that_is_away_says_nothing_against_a_release(
    seaweed: Seaweed, proxy: Proxy, made: Bundle, tmp_path: Path
) -> None:
    kept(made, tmp_path / "here", objects := seaweed.objects())
    there = ReleaseStore(tmp_path / "there", ObjectStore(objects.url, endpoint=proxy.endpoint, attempts=1))
    proxy.leave()
    with pytest.raises(UnreachableRelease):
        there.get(made.digest)
    with pytest.raises(UnreachableRelease):
        there.put(**content_of(made))
    shutil.rmtree(tmp_path / "there")
    proxy.come_back()
    assert there.get(made.digest).digest == made.digest


def test_many_open_and_write_the_same_at_once(seaweed: Seaweed, made: Bundle, tmp_path: Path) -> None:
    objects, content = seaweed.objects(), content_of(made)
    with ThreadPoolExecutor(6) as pool:
        wrote = list(pool.map(lambda i: ReleaseStore(tmp_path / f"w{i % 3}", objects).put(**content).digest, range(6)))
        opened = list(
            pool.map(lambda i: ReleaseStore(tmp_path / f"r{i % 2}", objects).get(made.digest).digest, range(6))
        )
    assert {*wrote, *opened} == {made.digest}
    assert visible(tmp_path / "r0") == {made.digest}


def test_without_a_store_it_is_the_folder_alone(made: Bundle, tmp_path: Path) -> None:
    release_store = ReleaseStore.at(tmp_path, None, None)
    release_store.put(**content_of(made))
    assert release_store.get(made.digest).path == tmp_path / made.digest
    (tmp_path / made.digest / MODEL).unlink()
    with pytest.raises(CorruptRelease):
        release_store.get(made.digest)
    assert bundle_module.write_bundle(tmp_path, **content_of(made)).read(MODEL) == made.read(MODEL)
