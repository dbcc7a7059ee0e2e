"""Reads the rows of a period from objects in the user's own buckets."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from typing import Any

import pandas as pd

from stores.object_store.s3 import AccessDenied, credentials_from_files
from tasks.source_access import BucketAccess, SourceError, SourceRejected
from tasks.table_files import read_table
from trimtab.config.params import Params, ParamsError
from trimtab.data.periods import Period, PeriodError

_ATTEMPTS = 5
_TARGET = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/(?P<key>.+)")
_BUSY = frozenset({"SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "Throttling", "503", "500"})
_MOVED = frozenset({"PreconditionFailed", "412", "NoSuchKey", "404"})
_NO_BUCKETS = "that address lists no buckets: correct TRIMTAB_SOURCE_ENDPOINT, or source.target in params.yaml"
_REASONS = {
    "NoSuchBucket": "there is no such bucket: correct source.target in params.yaml, or make the bucket",
    "InvalidAccessKeyId": "the server does not know this key: correct the credentials of the source",
    "SignatureDoesNotMatch": "the secret is wrong: correct the credentials of the source",
    "AccessDenied": "these credentials may not read there: they need to list the bucket and to get its objects",
    "403": "these credentials may not read there: they need to list the bucket and to get its objects",
    "ExpiredToken": "the credentials have expired",
    "PermanentRedirect": "the bucket is in another region: set AWS_DEFAULT_REGION to it",
    "NoSuchKey": _NO_BUCKETS,
    "404": _NO_BUCKETS,
}


class _Moved(Exception):
    """An object was replaced or removed after it was listed."""


@dataclass(frozen=True)
class SourceObject:
    """An object with rows. *etag* changes with the content."""

    key: str
    etag: str
    size: int


def object_records(objects: Sequence[SourceObject]) -> list[list[Any]]:
    """*objects* as the ledger keeps them."""
    return [list(astuple(each)) for each in objects]


def list_period_objects(target: str, period: Period, access: BucketAccess) -> list[SourceObject]:
    """The objects that hold the rows of *period*, in order of key; none when nothing has come yet.

    *target* is ``s3://bucket/path/{period}*.parquet`` (or .csv); each ``*`` stands for anything but a slash.
    Raises ParamsError, SourceRejected or SourceError.
    """
    return _of_period(_client(access), target, period)


def list_by_period(target: str, example: Period, access: BucketAccess) -> dict[str, list[SourceObject]]:
    """The objects of every period that has some. *example* is any period of the project. Raises as
    `list_period_objects`."""
    written = re.sub(r"\d", r"\\d", re.escape(str(example)))
    bucket, before, shape = _split_target(target, None, written)
    periods: dict[str, list[SourceObject]] = {}
    for found in _list_objects(_client(access), bucket, before):
        match = shape.fullmatch(found.key)
        if match and _is_period(match["period"], example):
            periods.setdefault(match["period"], []).append(found)
    return periods


def read(params: Params, period: Period, access: BucketAccess) -> tuple[pd.DataFrame, list[SourceObject]]:
    """The rows of *period*, and the objects that they are from, each read whole as it was listed: when one is replaced
    meanwhile all is begun again, so that rows of two states never mix.

    Raises ParamsError, SourceRejected or SourceError.
    """
    target = params.source.target
    bucket, client = _split_target(target, str(period))[0], _client(access)
    for _ in range(_ATTEMPTS):
        objects = _of_period(client, target, period)
        try:
            frames = [_frame(client, bucket, each, params, period) for each in objects]
        except _Moved:
            continue
        return (pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()), objects
    raise SourceError(f"{target}: the objects of {period} are replaced all the time ({_ATTEMPTS} attempts): try later")


def _of_period(client: Any, target: str, period: Period) -> list[SourceObject]:
    bucket, before, shape = _split_target(target, str(period))
    return [found for found in _list_objects(client, bucket, before) if shape.fullmatch(found.key)]


def _frame(client: Any, bucket: str, found: SourceObject, params: Params, period: Period) -> pd.DataFrame:
    content = io.BytesIO(_content(client, bucket, found))
    return read_table(content, f"s3://{bucket}/{found.key}", params, period)


def _content(client: Any, bucket: str, found: SourceObject) -> bytes:
    """All bytes of the object as it was listed. A connection that breaks is made anew."""
    from botocore.exceptions import BotoCoreError

    where = f"s3://{bucket}/{found.key}"
    problem = ""
    for _ in range(_ATTEMPTS):
        with _explain_errors(where, was_listed=True):
            answer = client.get_object(Bucket=bucket, Key=found.key, IfMatch=f'"{found.etag}"')
        try:
            content: bytes = answer["Body"].read()
        except (BotoCoreError, OSError) as error:
            problem = " ".join(str(error).split())
            continue
        if len(content) == found.size:
            return content
        problem = f"{len(content)} of {found.size} bytes arrived"
    raise SourceError(f"{where}: {problem} ({_ATTEMPTS} attempts): try later")


def _list_objects(client: Any, bucket: str, prefix: str) -> Iterator[SourceObject]:
    with _explain_errors(f"s3://{bucket}/{prefix}"):
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for entry in page.get("Contents", ()):
                yield SourceObject(entry["Key"], entry["ETag"].strip('"'), entry["Size"])


def _client(access: BucketAccess) -> Any:
    import boto3
    from botocore.config import Config

    with _explain_errors(access.endpoint or "S3"):
        given = {} if access.profile else credentials_from_files()
        session = boto3.session.Session(profile_name=access.profile, **given)
        return session.client(
            "s3", endpoint_url=access.endpoint, region_name=session.region_name or "us-east-1",
            config=Config(
                retries={"mode": "standard", "total_max_attempts": _ATTEMPTS}, connect_timeout=5, read_timeout=30,
                s3={"addressing_style": "path"} if access.endpoint else {},
            ),
        )  # fmt: skip


@contextmanager
def _explain_errors(where: str, *, was_listed: bool = False) -> Iterator[None]:
    """What boto3 raises inside, in our words about *where*. _Moved for what *was_listed* and is no longer there."""
    from botocore import exceptions as known
    from botocore.parsers import ResponseParserError

    try:
        yield
    except known.ClientError as error:
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        code = str(error.response.get("Error", {}).get("Code") or status)
        if was_listed and code in _MOVED:
            raise _Moved from error
        if code in _BUSY or status >= 500 or status == 429:
            raise SourceError(f"{where}: the server says {code} ({_ATTEMPTS} attempts): try later") from error
        raise SourceRejected(f"{where}: {_REASONS.get(code, f'the server says {code}')}") from error
    except (known.HTTPClientError, known.ConnectionError) as error:
        text = re.sub(r"\?\S+", "", " ".join(str(error).split()))  # a signed address would be a secret
        raise SourceError(f"{where}: {text}") from error
    except ResponseParserError as error:
        raise SourceError(f"{where}: the answer is not S3's: try later, or correct TRIMTAB_SOURCE_ENDPOINT") from error
    except AccessDenied as error:
        raise SourceRejected(str(error)) from error
    except known.BotoCoreError as error:
        text = " ".join(str(error).split())
        raise SourceRejected(f"{where}: {text}: set the credentials of the source") from error


def _split_target(target: str, period: str | None, written: str = "") -> tuple[str, str, re.Pattern[str]]:
    """Bucket, what all keys begin with, and the shape of a key. Raises ParamsError."""
    found = _TARGET.fullmatch(target)
    if found is None or "{period}" not in found["key"] or not target.endswith((".parquet", ".csv")):
        raise ParamsError(
            f"source.target {target} names no objects by period: write s3://bucket/path/{{period}}*.parquet, or .csv"
        )
    key = found["key"] if period is None else found["key"].replace("{period}", period)
    before = re.split(r"\*|\{period\}", key, maxsplit=1)[0]
    first, *others = re.escape(key).replace(r"\*", "[^/]*").split(re.escape("{period}"))
    shape = first + "".join(
        (f"(?P<period>{written})" if at == 0 else "(?P=period)") + other for at, other in enumerate(others)
    )
    return found["bucket"], before, re.compile(shape, re.DOTALL)


def _is_period(text: str, example: Period) -> bool:
    try:
        Period.parse(text, example.every)
    except PeriodError:
        return False
    return True
