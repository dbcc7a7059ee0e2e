"""Rows from the user's buckets, on a real S3 server: by period, by etag, through connections that break."""

from __future__ import annotations

import io
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pytest
from botocore.parsers import ResponseParserError, RestXMLParser

from tasks import buckets
from tasks.source_access import BucketAccess, SourceError, SourceRejected
from tasks.sources import fetch
from tests.stores.answering import answering
from tests.stores.proxy import Proxy, proxied
from tests.stores.seaweed import BUCKET, Seaweed, shorten_retries
from tests.tasks.source_params import source_params
from trimtab.config.params import ParamsError
from trimtab.data.periods import Period

MARCH = Period.parse("2013-03", "month")
ROWS = pd.DataFrame({"id": ["1", "2"], "x": [0.5, 1.5]})


def read(target: str, period: Period, access: BucketAccess) -> tuple[pd.DataFrame, list[buckets.SourceObject]]:
    return buckets.read(source_params(target), period, access)


@dataclass(frozen=True)
class Bucket:
    """A place in a bucket of the user's own."""

    endpoint: str
    client: Any
    folder: str

    @property
    def name(self) -> str:
        return f"{BUCKET}/{self.folder}"

    @property
    def target(self) -> str:
        return f"s3://{self.name}/in/{{period}}*.parquet"

    @property
    def access(self) -> BucketAccess:
        return BucketAccess(self.endpoint)

    def put(self, key: str, rows: pd.DataFrame = ROWS) -> None:
        content = rows.to_csv(index=False).encode() if key.endswith(".csv") else rows.to_parquet(index=False)
        self.put_bytes(key, content)

    def put_bytes(self, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=f"{self.folder}/{key}", Body=content)

    def keys(self, objects: list[buckets.SourceObject]) -> list[str]:
        return [each.key.removeprefix(f"{self.folder}/") for each in objects]


@pytest.fixture
def bucket(seaweed: Seaweed) -> Bucket:
    return Bucket(seaweed.endpoint, seaweed.client, f"rows-{uuid.uuid4().hex[:12]}")


@pytest.fixture
def line(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A connection to the server that can be spoiled."""
    shorten_retries(monkeypatch)
    with proxied(seaweed.port) as made:
        yield made


def test_the_objects_of_a_period_are_read_in_order_of_key(bucket: Bucket) -> None:
    for key, x in (("in/2013-03-b.parquet", 2.0), ("in/2013-03-a.parquet", 1.0), ("in/2013-04.parquet", 3.0)):
        bucket.put(key, pd.DataFrame({"x": [x]}))
    rows, objects = read(bucket.target, MARCH, bucket.access)
    assert list(rows["x"]) == [1.0, 2.0]
    assert bucket.keys(objects) == ["in/2013-03-a.parquet", "in/2013-03-b.parquet"]
    assert objects == buckets.list_period_objects(bucket.target, MARCH, bucket.access)


def test_a_star_does_not_reach_into_folders_and_other_kinds_of_file_are_left(bucket: Bucket) -> None:
    for key in ("in/2013-03.parquet", "in/2013-03/old/1.parquet", "in/2013-03.csv", "in/2013-03.parquet.tmp"):
        bucket.put(key)
    assert bucket.keys(buckets.list_period_objects(bucket.target, MARCH, bucket.access)) == ["in/2013-03.parquet"]


def test_a_period_of_which_nothing_has_come_has_no_rows(bucket: Bucket) -> None:
    rows, objects = read(bucket.target, MARCH, bucket.access)
    assert rows.empty
    assert objects == []


@pytest.mark.parametrize(
    ("pattern", "every", "keys"),
    [
        ("in/{period}*.parquet", "month", {"2013-03": ["in/2013-03-05.parquet", "in/2013-03-06.parquet"]}),
        ("in/{period}/*.csv", "day", {"2013-03-05": ["in/2013-03-05/1.csv"], "2013-03-06": ["in/2013-03-06/1.csv"]}),
        ("{period}/{period}.csv", "month", {"2013-03": ["2013-03/2013-03.csv"]}),
        ("in/w{period}.csv", "week", {"2013-03-04": ["in/w2013-03-04.csv"]}),
        ("in/*_{period}.csv", "hour", {"2013-03-05T07": ["in/a_2013-03-05T07.csv", "in/b_2013-03-05T07.csv"]}),
    ],
    ids=["several a month", "folders", "twice in the name", "weeks", "hours"],
)
def test_every_period_is_found_by_the_shape_of_its_name(
    bucket: Bucket, pattern: str, every: Any, keys: dict[str, list[str]]
) -> None:
    others = ["in/2013-3.parquet", "in/latest.parquet", "2013-03/2013-04.csv", "in/w2013-03-05.csv", "in/2013-13/1.csv"]
    for key in [*others, *(key for found in keys.values() for key in found)]:
        bucket.put(key)
    example = Period.containing(MARCH.start, every)
    found = buckets.list_by_period(f"s3://{bucket.name}/{pattern}", example, bucket.access)
    assert {name: bucket.keys(objects) for name, objects in found.items()} == keys


def test_what_an_object_holds_decides_its_etag_and_not_when_it_was_written(bucket: Bucket) -> None:
    seen = []
    for rows in (ROWS, ROWS, ROWS.head(1), ROWS):
        bucket.put("in/2013-03.parquet", rows)
        seen.append(buckets.object_records(buckets.list_period_objects(bucket.target, MARCH, bucket.access)))
    assert seen[0] == seen[1] == seen[3] != seen[2]
    assert seen[0][0][0] == f"{bucket.folder}/in/2013-03.parquet"


def once(act: Callable[[], None]) -> Callable[..., Any]:
    """The real reading of an object, with *act* done before the first."""
    real = buckets._content
    done: list[bool] = []

    def read(*args: Any) -> bytes:
        if not done:
            done.append(True)
            act()
        return real(*args)

    return read


def test_objects_that_change_while_they_are_read_are_read_again(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a batch could hold the old first half and the new second half of what somebody wrote."""
    for name in "ab":
        bucket.put(f"in/2013-03-{name}.parquet", pd.DataFrame({"x": ["old"]}))

    def replace_both() -> None:
        for name in "ab":
            bucket.put(f"in/2013-03-{name}.parquet", pd.DataFrame({"x": ["new"]}))

    monkeypatch.setattr(buckets, "_content", once(replace_both))
    rows, objects = read(bucket.target, MARCH, bucket.access)
    assert list(rows["x"]) == ["new", "new"]
    assert objects == buckets.list_period_objects(bucket.target, MARCH, bucket.access)


def test_an_object_that_is_removed_after_it_was_listed_is_not_missed(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.put("in/2013-03-a.parquet")
    bucket.put("in/2013-03-b.parquet")

    def remove() -> None:
        bucket.client.delete_object(Bucket=BUCKET, Key=f"{bucket.folder}/in/2013-03-a.parquet")

    monkeypatch.setattr(buckets, "_content", once(remove))
    assert len(read(bucket.target, MARCH, bucket.access)[0]) == 2


def test_objects_that_are_replaced_all_the_time_end_in_an_error(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = buckets._content

    def read_late(*args: Any) -> bytes:
        bucket.put("in/2013-03.parquet", pd.DataFrame({"x": [uuid.uuid4().hex]}))
        return real(*args)

    bucket.put("in/2013-03.parquet")
    monkeypatch.setattr(buckets, "_content", read_late)
    with pytest.raises(SourceError, match="2013-03 are replaced all the time"):
        read(bucket.target, MARCH, bucket.access)


def test_a_connection_that_breaks_half_way_is_made_anew(bucket: Bucket, line: Proxy) -> None:
    large = pd.DataFrame({"x": range(300_000)})
    bucket.put("in/2013-03.parquet", large)
    line.cut(2, received=300_000)
    rows, _ = read(bucket.target, MARCH, BucketAccess(line.endpoint))
    pd.testing.assert_frame_equal(rows, large)
    assert line.cuts_left <= 0


def test_a_server_that_asks_to_slow_down_is_asked_again(bucket: Bucket, line: Proxy) -> None:
    bucket.put("in/2013-03.parquet")
    line.slow_down = 3
    pd.testing.assert_frame_equal(read(bucket.target, MARCH, BucketAccess(line.endpoint))[0], ROWS)
    assert line.slow_down == 0


def test_a_server_that_is_away_is_a_source_that_failed(bucket: Bucket, line: Proxy) -> None:
    line.leave()
    with pytest.raises(SourceError, match=rf"s3://{bucket.name}/in/2013-03: "):
        read(bucket.target, MARCH, BucketAccess(line.endpoint))


def test_a_bucket_that_is_not_there_is_named_and_asked_for_once(seaweed: Seaweed) -> None:
    with pytest.raises(
        SourceRejected, match=r"s3://no-such-bucket/in/2013-03\.csv: there is no such bucket.*params\.yaml"
    ):
        read("s3://no-such-bucket/in/{period}.csv", MARCH, BucketAccess(seaweed.endpoint))


ASKS = (
    read,
    buckets.list_period_objects,
    buckets.list_by_period,
)


@pytest.mark.parametrize(
    "content",
    [b"<h1>Not found<br>", b"<h1>Not found</h1>", b"", b"<Error><Code>NoSuchKey</Code></Error>"],
    ids=["a page", "a page that is XML", "nothing", "S3's words"],
)
@pytest.mark.parametrize("ask", ASKS)
@pytest.mark.usefixtures("seaweed")
def test_an_endpoint_where_no_buckets_are_is_told_with_the_setting_to_correct(ask: Any, content: bytes) -> None:
    says = r"s3://bucket/in/.*: that address lists no buckets: correct TRIMTAB_SOURCE_ENDPOINT"
    with answering(content, status=404) as endpoint, pytest.raises(SourceRejected, match=says):
        ask("s3://bucket/in/{period}.csv", MARCH, BucketAccess(endpoint))


@pytest.mark.parametrize("ask", ASKS)
@pytest.mark.usefixtures("seaweed")
def test_an_answer_that_boto3_cannot_parse_is_a_source_that_failed(ask: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it was: botocore takes most of what is not S3's for a busy server."""

    def parse(*_: object) -> None:
        raise ResponseParserError("Unable to parse response")

    monkeypatch.setattr(RestXMLParser, "parse", parse)
    with answering(b"<ListBucketResult/>") as endpoint, pytest.raises(SourceError, match="not S3's: try later"):
        ask("s3://bucket/in/{period}.csv", MARCH, BucketAccess(endpoint))


@pytest.mark.parametrize(
    ("variable", "says"),
    [("AWS_ACCESS_KEY_ID", "does not know this key"), ("AWS_SECRET_ACCESS_KEY", "the secret is wrong")],
)
def test_wrong_credentials_are_told_without_telling_them(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, variable: str, says: str
) -> None:
    monkeypatch.setenv(variable, "marked-secret")
    with pytest.raises(SourceRejected, match=says) as caught:
        read(bucket.target, MARCH, bucket.access)
    assert "marked-secret" not in str(caught.value)


def test_no_credentials_at_all_are_asked_for(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    with pytest.raises(SourceRejected, match="set the credentials of the source"):
        read(bucket.target, MARCH, bucket.access)
    with pytest.raises(SourceRejected, match="profile"):
        read(bucket.target, MARCH, BucketAccess(bucket.access.endpoint, "mine"))


@pytest.mark.parametrize("key", ["in/2013-03.parquet", "in/2013-03.csv"])
def test_an_object_that_is_no_table_is_named(bucket: Bucket, key: str) -> None:
    bucket.put_bytes(key, b'"half' if key.endswith("csv") else b"PAR1")
    target = f"s3://{bucket.name}/in/{{period}}.{key.rsplit('.', 1)[1]}"
    with pytest.raises(SourceError, match=rf"s3://{bucket.name}/{key} cannot be read for 2013-03"):
        read(target, MARCH, bucket.access)


@pytest.mark.parametrize(
    "target",
    ["s3://b/x.csv", "s3://bucket/{period}.json", "s3://bucket", "s3://BUCKET/{period}.csv", "s3:///{period}.csv"],
)
def test_a_target_that_names_no_objects_by_period_is_told_as_a_param(target: str) -> None:
    with pytest.raises(ParamsError, match=r"source\.target .* names no objects by period: write s3://"):
        buckets.list_period_objects(target, MARCH, BucketAccess())


def test_whoever_fetches_rows_need_not_know_that_they_are_in_a_bucket(bucket: Bucket, tmp_path: Any) -> None:
    bucket.put("in/2013-03.csv")
    found = fetch(tmp_path, source_params(f"s3://{bucket.name}/in/{{period}}.csv"), MARCH, bucket.access)
    pd.testing.assert_frame_equal(found, ROWS)


def test_csv_and_parquet_give_the_same_rows(bucket: Bucket) -> None:
    bucket.put("in/2013-03.csv")
    bucket.put("in/2013-03.parquet")
    csv, parquet = (
        read(f"s3://{bucket.name}/in/{{period}}.{kind}", MARCH, bucket.access)[0] for kind in ("csv", "parquet")
    )
    pd.testing.assert_frame_equal(csv, parquet)
    assert len(pd.read_parquet(io.BytesIO(ROWS.to_parquet(index=False)))) == len(parquet)
