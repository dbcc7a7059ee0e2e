"""Objects below one prefix of an S3 bucket. An object is written and fetched as a whole or not at all."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from mimetypes import guess_type
from pathlib import Path
from typing import IO, Any

from stores.atomic_files import write_atomically
from stores.object_store.s3 import (
    AccessDenied,
    ChecksumMismatch,
    NoSuchObject,
    ObjectStoreError,
    S3Client,
    StoreUnavailable,
    parse_url,
)

_PART_BYTES = 16 * 1024 * 1024
# SeaweedFS (4.48) looks whether an object is there before it puts the parts together, not as it does: of four writers
# at once it answered three that they were first. One request holds what it promises.
_CONDITIONAL_BYTES = 64 * 1024 * 1024
_CHUNK_BYTES = 1024 * 1024
_LISTED_AT_ONCE = _DELETED_AT_ONCE = 1000
_SHA256, _WRITE = "sha256", "write"


@dataclass(frozen=True)
class ObjectInfo:
    """An object in a listing. *etag* changes with the content."""

    key: str
    size: int
    etag: str
    modified: datetime


class ObjectStore:
    """The objects below *url*, ``s3://bucket/prefix``. *endpoint* is the address of an S3 server of one's own; without
    it, it is Amazon's. Safe to share between threads, and to use after a fork.

    Requests that fail because of the network or a busy server are repeated with growing pauses, *attempts* times
    altogether. Then every method raises Unreachable, and what was asked may have happened nevertheless; or Refused,
    which no repetition helps, when it is about credentials, rights or a missing bucket.
    """

    def __init__(self, url: str, *, endpoint: str | None = None, attempts: int = 6) -> None:
        self.url, self.endpoint = url.rstrip("/"), endpoint
        self._bucket, self._prefix = parse_url(url)
        self._requests = S3Client(self._bucket, endpoint, attempts=attempts)

    def put(self, key: str, content: bytes | Path, *, if_absent: bool = False) -> bool:
        """Write an object, in parts when it is large; it appears once it is complete.

        With *if_absent*, an existing object is kept and the result is False. Of several concurrent writers exactly one
        gets True, also when its request was repeated; above 64 MB only on Amazon's S3.
        """
        mark = {_SHA256: _sha256(content), _WRITE: uuid.uuid4().hex}
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        condition = {"IfNoneMatch": "*"} if if_absent else {}
        target = {"Bucket": self._bucket, "Key": self._prefix + key}
        described = {"Metadata": mark, "ContentType": guess_type(key)[0] or "application/octet-stream"}
        with _open(content) as file:
            if size > (_CONDITIONAL_BYTES if if_absent else _PART_BYTES):
                if if_absent and self._mark(key) is not None:
                    return False  # before all of it is sent in vain
                written = self._put_parts(file, target, condition, described)
            else:
                request = {**target, **condition, "Body": file.read(), **described}
                written = self._requests.call_conditional("put_object", **request) is not None
        # Another writer was first; or our own first attempt was, whose answer got lost on the way.
        return written or (self._mark(key) or {}).get(_WRITE) == mark[_WRITE]

    def read(self, key: str) -> bytes:
        """Return an object's content. Raises NoSuchObject, and ChecksumMismatch when it differs from what was
        written."""
        content = BytesIO()
        self._download(key, content)
        return content.getvalue()

    def fetch(self, key: str, target: Path) -> str:
        """Write an object to the file *target*, which appears complete or not at all, and return its etag. Raises
        NoSuchObject, ChecksumMismatch, and OSError when the disk is full."""
        with write_atomically(target, is_durable=False) as scratch, scratch.open("xb") as file:
            return self._download(key, file)

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[ObjectInfo]:
        """Objects whose keys begin with *prefix* and come after *after*, by key."""
        request = {"Bucket": self._bucket, "Prefix": self._prefix + prefix, "MaxKeys": _LISTED_AT_ONCE}
        if after:
            request["StartAfter"] = self._prefix + after
        while True:
            page = self._requests.call("list_objects_v2", **request)
            for entry in page.get("Contents", ()):
                key = entry["Key"].removeprefix(self._prefix)
                yield ObjectInfo(key, entry["Size"], entry["ETag"].strip('"'), entry["LastModified"])
            if not page.get("IsTruncated"):
                return
            request["ContinuationToken"] = page["NextContinuationToken"]

    def remove(self, keys: Iterable[str]) -> None:
        """Delete objects; a missing one is no error. When this raises, some may still exist."""
        gone = [{"Key": self._prefix + key} for key in keys]
        for start in range(0, len(gone), _DELETED_AT_ONCE):
            some = gone[start : start + _DELETED_AT_ONCE]
            done = self._requests.call("delete_objects", Bucket=self._bucket, Delete={"Objects": some, "Quiet": True})
            for error in done.get("Errors", ()):
                raise self._requests.failure(error["Key"], error["Code"])

    def _put_parts(
        self, file: IO[bytes], target: dict[str, str], condition: dict[str, str], described: dict[str, Any]
    ) -> bool:
        """Upload a large object in parts. The parts of a failed upload are deleted if the server can be reached."""
        upload = self._requests.call("create_multipart_upload", **target, **described)["UploadId"]
        try:
            parts: list[dict[str, Any]] = []
            while content := file.read(_PART_BYTES):
                number = len(parts) + 1
                sent = self._requests.call("upload_part", **target, UploadId=upload, PartNumber=number, Body=content)
                parts.append({"PartNumber": number, "ETag": sent["ETag"]})
            whole = {"MultipartUpload": {"Parts": parts}, "UploadId": upload}
            try:
                done = self._requests.call_conditional("complete_multipart_upload", **target, **whole, **condition)
            except NoSuchObject:  # the upload: finished by an attempt whose answer got lost
                return False
            if done is None:
                self._requests.abort_upload(**target, UploadId=upload)
            return done is not None
        except BaseException:
            self._requests.abort_upload(**target, UploadId=upload)
            raise

    def _mark(self, key: str) -> dict[str, str] | None:
        """Return the object's metadata, or None when there is no such object."""
        try:
            found = self._requests.call("head_object", Bucket=self._bucket, Key=self._prefix + key)
        except NoSuchObject:
            return None
        mark: dict[str, str] = found.get("Metadata", {})
        return mark

    def _download(self, key: str, into: IO[bytes]) -> str:
        """All of an object's bytes, going on where a connection broke; the etag."""
        body = self._requests.body(self._prefix + key)
        digest = hashlib.sha256()
        for chunk in body.chunks(_CHUNK_BYTES):
            if chunk is None:  # it was replaced meanwhile, and begins again
                into.seek(0)
                into.truncate()
                digest = hashlib.sha256()
            else:
                into.write(chunk)
                digest.update(chunk)
        expected = body.metadata.get(_SHA256)
        if expected is not None and digest.hexdigest() != expected:
            raise ChecksumMismatch(body.place, f"sha256 is {digest.hexdigest()[:12]}…, written was {expected[:12]}…")
        return body.etag


def _sha256(content: bytes | Path) -> str:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open(content: bytes | Path) -> Any:
    return BytesIO(content) if isinstance(content, bytes) else content.open("rb")


__all__ = [
    "AccessDenied",
    "ChecksumMismatch",
    "NoSuchObject",
    "ObjectInfo",
    "ObjectStore",
    "ObjectStoreError",
    "StoreUnavailable",
]
