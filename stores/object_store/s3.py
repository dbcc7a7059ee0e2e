"""Requests to S3 through boto3: credentials, retries, and what each failure means. The only module of this room that
imports boto3."""

from __future__ import annotations

import logging
import os
import random
import re
import time
from collections.abc import Iterator
from functools import lru_cache, partial
from typing import Any

from trimtab.config.run_with_secrets import UnreadableSecret, secrets_from_files

_URL = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<prefix>.*))?")
_CONNECT_S, _READ_S = 4, 20
_LONGEST_PAUSE_S = 5.0
_MISSING = frozenset({"NoSuchKey", "NotFound", "404", "NoSuchUpload"})
_THERE = frozenset({"PreconditionFailed", "412"})
_CONFLICTS = frozenset({"ConditionalRequestConflict", "OperationAborted"})
_BUSY = _CONFLICTS | {"RequestTimeout", "SlowDown", "InternalError"}
_REASONS = {
    "NoSuchBucket": "there is no such bucket: make it, or correct TRIMTAB_STORE",
    "InvalidAccessKeyId": "the server does not know the key in AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "the secret in AWS_SECRET_ACCESS_KEY is wrong",
    "AccessDenied": "these credentials may not do this",
    "403": "these credentials may not do this",
    "ExpiredToken": "the credentials have expired",
}
log = logging.getLogger("trimtab.stores")


class ObjectStoreError(OSError):
    """Something is wrong with *place*, an object or a bucket."""

    def __init__(self, place: str, problem: str) -> None:
        super().__init__(f"{place}: {problem}")
        self.place, self.problem = place, problem

    def __reduce__(self) -> tuple[type[ObjectStoreError], tuple[str, str]]:
        return type(self), (self.place, self.problem)


class StoreUnavailable(ObjectStoreError, ConnectionError):
    """The server does not answer, or answers with a temporary error; a retry may succeed."""


class NoSuchObject(ObjectStoreError, LookupError):
    """There is no such object."""


class ChecksumMismatch(ObjectStoreError):
    """The stored content differs from what was written."""


class AccessDenied(ObjectStoreError, PermissionError):
    """The server denies the request: wrong credentials, missing rights, or a bucket that does not exist."""


def parse_url(url: str) -> tuple[str, str]:
    """Bucket and prefix of ``s3://bucket/prefix``; the prefix is empty or ends with a slash. Raises ValueError."""
    found = _URL.fullmatch(url)
    if found is None:
        raise ValueError(f"{url} is no place for a store: write s3://bucket or s3://bucket/prefix")
    prefix = (found["prefix"] or "").strip("/")
    return found["bucket"], f"{prefix}/" if prefix else ""


class S3Client:
    """Requests about objects in *bucket*."""

    def __init__(self, bucket: str, endpoint: str | None, *, attempts: int) -> None:
        self._bucket, self._endpoint, self._attempts = bucket, endpoint, attempts
        self._client: tuple[int, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What goes to another process: everything but the connections."""
        return {**self.__dict__, "_client": None}

    def call(self, operation: str, **request: Any) -> dict[str, Any]:
        """The answer. Raises NoSuchObject, AccessDenied, StoreUnavailable."""
        answer = self.call_conditional(operation, **request)
        if answer is None:
            raise AccessDenied(self._place(request), "a condition did not hold")
        return answer

    def call_conditional(self, operation: str, **request: Any) -> dict[str, Any] | None:
        """The answer; None when the request's condition did not hold. Raises as `call` does."""
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        try:
            answer: dict[str, Any] = getattr(self._s3(), operation)(**request)
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", "?"))
            status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            if code in _THERE:
                return None
            if code in _MISSING:
                raise NoSuchObject(self._place(request), "there is no such object") from error
            if code in _BUSY or status >= 500 or status == 429:
                raise StoreUnavailable(self._place(request), f"the server says {code}") from error
            self._client = None  # the next one reads the credentials anew, which may have been changed
            raise AccessDenied(self._place(request), _REASONS.get(code, f"the server says {code}")) from error
        except (BotoCoreError, ResponseParserError) as error:
            kind = StoreUnavailable if _is_transient(error) else AccessDenied
            raise kind(self._place(request), _without_secrets(error)) from error
        return answer

    def failure(self, key: str, code: str) -> ObjectStoreError:
        """What *code* means, which an answer about many objects holds for *key*."""
        place = self._place({"Key": key})
        if code not in _REASONS:
            return StoreUnavailable(place, f"the server says {code}")
        self._client = None  # as in `call_conditional`
        return AccessDenied(place, _REASONS[code])

    def abort_upload(self, **upload: str) -> None:
        """Abort an unfinished multipart upload, so that its parts are not billed. If that fails, the bucket's
        life-cycle rules remove them."""
        try:
            self.call_conditional("abort_multipart_upload", **upload)
        except ObjectStoreError as error:
            log.warning("parts of an unfinished object stay behind: %s", error)

    def body(self, key: str) -> ResumableDownload:
        """The content of an object, not yet asked for."""
        return ResumableDownload(self, {"Bucket": self._bucket, "Key": key}, attempts=self._attempts)

    def _place(self, request: dict[str, Any]) -> str:
        return f"s3://{self._bucket}/{request.get('Key', request.get('Prefix', ''))}"

    def _s3(self) -> Any:
        """The client of this process: connections must not be shared with a fork."""
        made = self._client
        if made is None or made[0] != os.getpid():
            made = self._client = (os.getpid(), client(self._endpoint, attempts=self._attempts))
        return made[1]


class ResumableDownload:
    """An object's content on its way. After `chunks` is through: *etag* and *metadata* of what arrived."""

    def __init__(self, requests: S3Client, target: dict[str, str], *, attempts: int) -> None:
        self._requests, self._target, self._attempts = requests, target, attempts
        self.place = f"s3://{target['Bucket']}/{target['Key']}"
        self.etag = ""
        self.metadata: dict[str, str] = {}

    def chunks(self, size: int) -> Iterator[bytes | None]:
        """Yield the object's bytes once each; after a broken connection, go on where it broke.

        None means that the object was replaced meanwhile: discard what came before.
        Raises NoSuchObject, AccessDenied, StoreUnavailable and ChecksumMismatch.
        """
        from botocore.exceptions import BotoCoreError, FlexibleChecksumError

        got, total, failures = 0, None, 0
        while True:
            rest = {"IfMatch": f'"{self.etag}"', "Range": f"bytes={got}-"} if got else {}
            answer = self._requests.call_conditional("get_object", **self._target, **rest)
            before = got
            if answer is None:
                before, got, problem = 1, 0, "it is replaced all the time"
                yield None
            else:
                if not got:
                    total, self.etag = answer["ContentLength"], answer["ETag"].strip('"')
                    self.metadata = answer.get("Metadata", {})
                try:
                    for chunk in answer["Body"].iter_chunks(size):
                        got += len(chunk)
                        yield chunk
                    if got == total:
                        return
                    problem = f"{got} of {total} bytes arrived"
                except FlexibleChecksumError as error:
                    raise ChecksumMismatch(self.place, "its content is not what its checksum names") from error
                except (BotoCoreError, OSError) as error:
                    problem = _without_secrets(error)
            failures = 1 if got > before else failures + 1
            if failures == self._attempts:
                raise StoreUnavailable(self.place, f"{problem} ({failures} attempts without any progress)")
            time.sleep(_pause_s(failures))


def client(endpoint: str | None = None, *, attempts: int = 1) -> Any:
    """A client for S3 with the credentials of the environment, also from files that ``AWS_…_FILE`` name.

    It makes a request up to *attempts* times, by botocore's standard mode: when the connection fails, on 500, 502, 503
    and 504, and when the server throttles; and after two writes conflicted or on 429, which that mode does not know.
    """
    import boto3
    import botocore.session
    from botocore.config import Config

    core = botocore.session.get_session()
    core.register_component("data_loader", _service_models())
    session = boto3.session.Session(botocore_session=core, **credentials_from_files())
    style = {"addressing_style": "path"} if endpoint else {}
    config = Config(
        retries={"mode": "standard", "total_max_attempts": attempts}, connect_timeout=_CONNECT_S, read_timeout=_READ_S,
        max_pool_connections=16, s3=style,
    )  # fmt: skip
    region = session.region_name or "us-east-1"
    made = session.client("s3", endpoint_url=endpoint, region_name=region, config=config)
    made.meta.events.register("needs-retry.s3", partial(_pause_after_conflict, limit=attempts))
    return made


def _pause_after_conflict(response: tuple[Any, Any] | None, attempts: int, *, limit: int, **_: Any) -> float | None:
    """Seconds until botocore repeats a request that its standard mode does not repeat; None: it does not.

    *response* is the HTTP response and what was parsed from it, *attempts* how many were made.
    """
    if response is None or attempts >= limit:
        return None
    http, parsed = response
    is_conflict = http.status_code == 429 or parsed.get("Error", {}).get("Code") in _CONFLICTS
    return _pause_s(attempts) if is_conflict else None


def _pause_s(attempts: int) -> float:
    """Seconds to wait after *attempts* that failed: longer each time, and varied, so that clients do not all repeat at
    once."""
    return min(_LONGEST_PAUSE_S, 0.05 * 2.0**attempts) * (0.5 + random.random() / 2)  # nosec B311 # no secret is made


@lru_cache(maxsize=1)
def _service_models() -> Any:
    """What botocore knows of S3, read once: it takes most of the time that making a client takes."""
    from botocore.loaders import create_loader

    return create_loader()


def credentials_from_files() -> dict[str, str]:
    """Credentials of which some are in files, for boto3's `Session`; a file counts before a variable, as it may have
    been replaced since this process began. Raises AccessDenied when a file cannot be read."""
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    try:
        files = secrets_from_files(names, os.environ)
    except UnreadableSecret as error:
        raise AccessDenied("credentials", str(error)) from error
    given = {name: os.environ[name] for name in names if files and os.environ.get(name)}
    return {name.lower(): value for name, value in {**given, **files}.items()}


def _is_transient(error: Exception) -> bool:
    """Whether the same request may go well later. What is wrong with credentials or parameters stays wrong."""
    from botocore import exceptions as known
    from botocore.parsers import ResponseParserError

    return isinstance(error, (known.HTTPClientError, known.ConnectionError, ResponseParserError))


def _without_secrets(error: BaseException) -> str:
    """What went wrong, in one line. botocore's texts hold addresses, never keys; a signed address could."""
    text = " ".join(str(error).split()) or type(error).__name__
    return re.sub(r"\?\S+", "", text)[:300]
