"""The copy of the bucket that a backup takes, on a real S3 server while others merge telemetry."""

from __future__ import annotations

import io
import tarfile
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from infra.images.object_store.bucket_backup import Unrest, save
from tests.stores.seaweed import Seaweed

FIRST, SECOND = "telemetry/predictions/parts/1.parquet", "telemetry/predictions/parts/2.parquet"
MERGED = "telemetry/predictions/merged/1/1-2.parquet"


class Busy:
    """boto3's client, but *meanwhile* happens whenever an object is read, and listings come in pages of *page*."""

    def __init__(self, client: Any, page: int, meanwhile: Callable[[], None]) -> None:
        self.exceptions, self._client, self._page, self._meanwhile = client.exceptions, client, page, meanwhile

    def get_paginator(self, name: str) -> Busy:
        assert name == "list_objects_v2"
        return self

    def paginate(self, **named: Any) -> Iterator[Any]:
        pages = self._client.get_paginator("list_objects_v2")
        return iter(pages.paginate(**named, PaginationConfig={"PageSize": self._page}))

    def get_object(self, **named: Any) -> Any:
        self._meanwhile()
        return self._client.get_object(**named)


@pytest.fixture
def bucket(seaweed: Seaweed) -> Iterator[str]:
    """A bucket with telemetry that is to be merged, and an object before it."""
    name = f"saved-{uuid.uuid4().hex[:8]}"
    seaweed.client.create_bucket(Bucket=name)
    put(seaweed, name, "releases/abc/manifest.json", b"{}")
    put(seaweed, name, FIRST, b"1")
    put(seaweed, name, SECOND, b"2")
    yield name
    for found in seaweed.client.list_objects_v2(Bucket=name).get("Contents", []):
        seaweed.client.delete_object(Bucket=name, Key=found["Key"])
    seaweed.client.delete_bucket(Bucket=name)


def put(seaweed: Seaweed, bucket: str, key: str, content: bytes) -> None:
    seaweed.client.put_object(Bucket=bucket, Key=key, Body=content, Metadata={"kind": "test"})


def held(archive: io.BytesIO) -> dict[str, bytes]:
    """What the archive has."""
    archive.seek(0)
    with tarfile.open(fileobj=archive) as tar:
        return {member.name: file.read() for member in tar if (file := tar.extractfile(member))}


@pytest.mark.parametrize("page", [1000, 1], ids=["after-it-was-listed", "before-it-was-listed"])
def test_what_is_merged_during_the_walk_is_in_the_copy_as_what_it_became(
    seaweed: Seaweed, bucket: str, page: int
) -> None:
    """The walk reads `parts/1` when both are merged into an object whose key it has passed."""
    reads = iter(range(100))

    def merge() -> None:
        if next(reads) == 1:
            put(seaweed, bucket, MERGED, b"12")
            for key in (FIRST, SECOND):
                seaweed.client.delete_object(Bucket=bucket, Key=key)

    archive = io.BytesIO()
    assert save(Busy(seaweed.client, page, merge), bucket, archive) == 2
    assert held(archive) == {"releases/abc/manifest.json": b"{}", MERGED: b"12"}


def test_what_moves_between_two_pages_of_a_listing_is_in_the_copy(seaweed: Seaweed, bucket: str) -> None:
    """Nothing vanishes that was listed: `parts/2` is gone before its page is asked for."""
    reads = iter(range(100))

    def merge() -> None:
        if next(reads) == 1:
            put(seaweed, bucket, MERGED, b"2")
            seaweed.client.delete_object(Bucket=bucket, Key=SECOND)

    archive = io.BytesIO()
    assert save(Busy(seaweed.client, 1, merge), bucket, archive) == 3
    assert held(archive) == {"releases/abc/manifest.json": b"{}", FIRST: b"1", MERGED: b"2"}


def test_each_object_is_in_the_copy_once_with_what_is_told_of_it(seaweed: Seaweed, bucket: str) -> None:
    archive = io.BytesIO()
    assert save(seaweed.client, bucket, archive) == 3
    archive.seek(0)
    with tarfile.open(fileobj=archive) as tar:
        assert sorted(tar.getnames()) == ["releases/abc/manifest.json", FIRST, SECOND]
        assert {member.pax_headers["TRIMTAB.metadata"] for member in tar} == {'{"kind": "test"}'}


def test_a_bucket_that_never_rests_is_an_error_and_no_copy(seaweed: Seaweed, bucket: str) -> None:
    class Restless(Busy):
        def get_object(self, **named: Any) -> Any:
            raise self.exceptions.NoSuchKey({"Error": {"Code": "NoSuchKey"}}, "GetObject")

    with pytest.raises(Unrest, match=bucket):
        save(Restless(seaweed.client, 1000, lambda: None), bucket, io.BytesIO())
