"""Objects on a real S3 server, over connections that break."""

from __future__ import annotations

import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stores.object_store.s3 import parse_url
from stores.object_store.store import AccessDenied, ChecksumMismatch, NoSuchObject, ObjectStore, StoreUnavailable
from tests.stores.answering import answering
from tests.stores.proxy import Proxy, refusal
from tests.stores.seaweed import SECRET, Seaweed, credentials

LARGE = os.urandom(1024 * 1024) * 17


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_was_put_is_read_listed_and_removed(seaweed: Seaweed, tmp_path: Path) -> None:
    objects = seaweed.objects()
    for key in ("a/1", "a/2", "b/1"):
        assert objects.put(key, key.encode())
    assert objects.read("a/2") == b"a/2"
    etag = objects.fetch("b/1", tmp_path / "deep" / "b")
    assert (tmp_path / "deep" / "b").read_bytes() == b"b/1" and etag
    found = list(objects.list("a/"))
    assert [(f.key, f.size) for f in found] == [("a/1", 3), ("a/2", 3)]
    assert [f.key for f in objects.list("a/", after="a/1")] == ["a/2"]
    objects.remove(["a/1", "a/2", "never there"])
    assert [f.key for f in objects.list()] == ["b/1"]
    with pytest.raises(NoSuchObject, match="/place/a/1"):
        objects.read("a/1")


def test_a_listing_and_a_removal_go_on_after_their_first_page(
    seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stores.object_store.store._LISTED_AT_ONCE", 3)
    monkeypatch.setattr("stores.object_store.store._DELETED_AT_ONCE", 3)
    objects, keys = seaweed.objects(), [f"k/{i:02d}" for i in range(10)]
    for key in keys:
        objects.put(key, b"")
    assert [f.key for f in objects.list("k/")] == keys
    objects.remove(keys)
    assert not list(objects.list())


@pytest.mark.parametrize("content", [b"small", LARGE], ids=["small", "larger than a part"])
def test_of_writers_at_once_exactly_one_is_told_that_it_wrote(seaweed: Seaweed, content: bytes) -> None:
    url, writers = seaweed.place(), 4
    together = threading.Barrier(writers)

    def write(number: int) -> bool:
        objects = seaweed.objects(url)
        together.wait()
        return objects.put("one", content + bytes([number]), if_absent=True)

    with ThreadPoolExecutor(writers) as pool:
        told = list(pool.map(write, range(writers)))
    assert told.count(True) == 1
    assert seaweed.objects(url).read("one")[-1] == told.index(True)


def test_a_large_file_goes_in_parts_and_comes_back_whole(
    seaweed: Seaweed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "large").write_bytes(LARGE)
    objects = seaweed.objects()
    assert objects.put("large", tmp_path / "large")
    assert not objects.put("large", b"something else", if_absent=True)
    monkeypatch.setattr("stores.object_store.store._CONDITIONAL_BYTES", 1000)
    assert not objects.put("large", LARGE[::-1], if_absent=True), "the parts are not even sent"
    etag = objects.fetch("large", tmp_path / "back")
    assert etag.endswith("-2")
    assert (tmp_path / "back").read_bytes() == LARGE


def test_a_download_that_breaks_goes_on_where_it_was(seaweed: Seaweed, proxy: Proxy, tmp_path: Path) -> None:
    url = seaweed.place()
    seaweed.objects(url).put("large", LARGE)
    proxy.cut(3, received=5_000_000)
    ObjectStore(url, endpoint=proxy.endpoint).fetch("large", tmp_path / "back")
    assert proxy.cuts_left <= 0
    assert (tmp_path / "back").read_bytes() == LARGE
    assert names(tmp_path) == ["back"]


def test_a_download_that_never_ends_well_leaves_no_file(seaweed: Seaweed, proxy: Proxy, tmp_path: Path) -> None:
    url = seaweed.place()
    seaweed.objects(url).put("large", LARGE)
    (tmp_path / "back").write_bytes(b"as before")
    proxy.cut(1000, received=100)
    with pytest.raises(StoreUnavailable):
        ObjectStore(url, endpoint=proxy.endpoint, attempts=2).fetch("large", tmp_path / "back")
    assert names(tmp_path) == ["back"] and (tmp_path / "back").read_bytes() == b"as before"


@pytest.mark.parametrize("content", [os.urandom(3_000_000), LARGE], ids=["at once", "in parts"])
def test_an_upload_that_breaks_is_made_again(seaweed: Seaweed, proxy: Proxy, content: bytes) -> None:
    url = seaweed.place()
    proxy.cut(2, sent=1_000_000)
    assert ObjectStore(url, endpoint=proxy.endpoint).put("one", content, if_absent=True)
    assert proxy.cuts_left <= 0
    assert seaweed.objects(url).read("one") == content


@pytest.mark.parametrize("content", [os.urandom(3_000_000), LARGE], ids=["at once", "in parts"])
def test_of_an_upload_that_never_ends_well_nobody_sees_anything(seaweed: Seaweed, proxy: Proxy, content: bytes) -> None:
    url = seaweed.place()
    proxy.cut(1000, sent=1_000_000)
    with pytest.raises(StoreUnavailable, match="/place/one"):
        ObjectStore(url, endpoint=proxy.endpoint, attempts=2).put("one", content)
    assert not list(seaweed.objects(url).list())
    with pytest.raises(NoSuchObject):
        seaweed.objects(url).read("one")


def test_a_write_whose_answer_got_lost_counts_as_ones_own(seaweed: Seaweed, proxy: Proxy) -> None:
    url = seaweed.place()
    proxy.cut(1, received=0)
    assert ObjectStore(url, endpoint=proxy.endpoint).put("one", b"mine", if_absent=True)
    assert proxy.connections > 1
    assert not seaweed.objects(url).put("one", b"mine", if_absent=True)


@pytest.mark.parametrize(
    ("status", "code"),
    [(503, "SlowDown"), (409, "ConditionalRequestConflict"), (409, "OperationAborted"), (429, "Many")],
)
def test_a_busy_server_is_asked_again_later(seaweed: Seaweed, proxy: Proxy, status: int, code: str) -> None:
    objects = ObjectStore(seaweed.place(), endpoint=proxy.endpoint)
    proxy.slow_down, proxy.refusal = 3, refusal(status, code)
    assert objects.put("one", b"content")
    assert proxy.slow_down == 0
    assert seaweed.objects(objects.url).read("one") == b"content"


@pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (409, "ConditionalRequestConflict")])
def test_a_server_that_stays_busy_is_named(seaweed: Seaweed, proxy: Proxy, status: int, code: str) -> None:
    proxy.slow_down, proxy.refusal = 1000, refusal(status, code)
    with pytest.raises(StoreUnavailable, match=code):
        ObjectStore(seaweed.place(), endpoint=proxy.endpoint, attempts=2).put("one", b"content")
    assert proxy.slow_down == 998


def test_a_server_that_is_away_is_named_and_answers_again_when_back(seaweed: Seaweed, proxy: Proxy) -> None:
    objects = ObjectStore(seaweed.place(), endpoint=proxy.endpoint, attempts=2)
    objects.put("one", b"content")
    proxy.leave()
    with pytest.raises(StoreUnavailable):
        objects.read("one")
    proxy.come_back()
    assert objects.read("one") == b"content"


def test_a_wrong_secret_is_refused_at_once_and_not_repeated(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    url = seaweed.place()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret-value")
    with pytest.raises(AccessDenied, match="AWS_SECRET_ACCESS_KEY is wrong") as refusal:
        seaweed.objects(url).put("one", b"content")
    assert "wrong-secret-value" not in str(refusal.value) and SECRET not in str(refusal.value)


def test_without_credentials_it_says_so(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    url = seaweed.place()
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    with pytest.raises(AccessDenied, match="credentials"):
        seaweed.objects(url).read("one")


def test_credentials_are_read_from_files(seaweed: Seaweed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = seaweed.place()
    (tmp_path / "secret").write_text(SECRET + "\n")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret-value")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY_FILE", str(tmp_path / "secret"))
    assert seaweed.objects(url).put("one", b"content")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY_FILE", str(tmp_path / "nowhere"))
    with pytest.raises(AccessDenied, match="AWS_SECRET_ACCESS_KEY_FILE"):
        seaweed.objects(url).read("one")


def test_credentials_that_are_changed_are_read_anew_after_a_refusal(
    seaweed: Seaweed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = seaweed.objects()
    (tmp_path / "secret").write_text("wrong-secret-value")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY_FILE", str(tmp_path / "secret"))
    with pytest.raises(AccessDenied):
        objects.put("one", b"content")
    (tmp_path / "secret").write_text(SECRET)
    assert objects.put("one", b"content")


def test_a_missing_bucket_is_named(seaweed: Seaweed) -> None:
    for attempt in (lambda o: o.put("one", b"content"), lambda o: list(o.list())):
        with pytest.raises(AccessDenied, match=r"s3://no-such-bucket-here/.*no such bucket"):
            attempt(seaweed.objects("s3://no-such-bucket-here/place"))


@pytest.mark.parametrize(
    ("code", "kind", "says"),
    [
        ("AccessDenied", AccessDenied, "these credentials may not do this"),
        ("InternalError", StoreUnavailable, "InternalError"),
    ],
)
def test_an_object_that_cannot_be_removed_is_named_and_whether_waiting_may_help(
    monkeypatch: pytest.MonkeyPatch, code: str, kind: type[Exception], says: str
) -> None:
    """Of many keys the server removes some, and says of each other one why not."""
    for name, value in credentials().items():
        monkeypatch.setenv(name, value)
    error = f"<Error><Key>place/two</Key><Code>{code}</Code><Message>no</Message></Error>"
    with answering(f"<DeleteResult>{error}</DeleteResult>".encode()) as endpoint:
        objects = ObjectStore("s3://bucket/place", endpoint=endpoint)
        with pytest.raises(kind, match=f"s3://bucket/place/two: .*{says}"):
            objects.remove(["one", "two"])


def test_content_that_is_not_what_was_written_is_never_handed_out(seaweed: Seaweed, tmp_path: Path) -> None:
    objects = seaweed.objects()
    objects.put("one", b"content")
    bucket, prefix = parse_url(objects.url)
    noted = seaweed.client.head_object(Bucket=bucket, Key=f"{prefix}one")["Metadata"]
    seaweed.client.put_object(Bucket=bucket, Key=f"{prefix}one", Body=b"cOntent", Metadata=noted)
    with pytest.raises(ChecksumMismatch, match="/place/one"):
        objects.fetch("one", tmp_path / "one")
    assert not names(tmp_path)


def test_objects_of_others_are_read_as_they_are(seaweed: Seaweed) -> None:
    objects = seaweed.objects()
    bucket, prefix = parse_url(objects.url)
    seaweed.client.put_object(Bucket=bucket, Key=f"{prefix}theirs", Body=b"")
    assert objects.read("theirs") == b""


@pytest.mark.parametrize("url", ["bucket", "http://bucket/x", "s3://", "s3://Bucket", "s3://b/x"])
def test_what_is_no_place_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(ValueError, match="s3://bucket/prefix"):
        ObjectStore(url)


def test_errors_survive_the_way_between_processes() -> None:
    for kind in (StoreUnavailable, NoSuchObject, AccessDenied, ChecksumMismatch):
        error = pickle.loads(pickle.dumps(kind("s3://bucket/key", "it broke")))
        assert str(error) == "s3://bucket/key: it broke" and type(error) is kind
