"""Copy the store's bucket out of the object store and into one, as a tar archive: `python bucket_backup.py save >
FILE`, `python bucket_backup.py load < FILE`. TRIMTAB_STORE names the bucket; credentials come by boto3's usual means.

An object's own metadata goes with it (the archive's headers hold it). `load` overwrites nothing: a bucket with objects
in it is refused, because a mixture of two places would be neither."""

from __future__ import annotations

import json
import os
import sys
import tarfile
from collections.abc import Iterator
from typing import IO, Any
from urllib.parse import urlsplit

_METADATA = "TRIMTAB.metadata"
_WALKS = 10


class Unrest(RuntimeError):
    """The bucket never came to rest, so no archive of it is whole."""


def main(arguments: list[str]) -> int:
    """Copy; 1 when a bucket to save never rests or one to load into is not empty, 2 for another word than these."""
    import boto3

    bucket = urlsplit(os.environ["TRIMTAB_STORE"]).netloc
    region = os.environ.get("AWS_DEFAULT_REGION", "us-east-1")
    client = boto3.client("s3", endpoint_url=os.environ.get("TRIMTAB_STORE_ENDPOINT"), region_name=region)
    if arguments == ["save"]:
        try:
            objects = save(client, bucket, sys.stdout.buffer)
        except Unrest as error:
            print(error, file=sys.stderr)
            return 1
        print(f"{objects} objects saved", file=sys.stderr)
        return 0
    if arguments == ["load"]:
        if client.list_objects_v2(Bucket=bucket, MaxKeys=1).get("KeyCount"):
            print(f"the bucket {bucket} is not empty, so nothing is loaded into it", file=sys.stderr)
            return 1
        objects = load(client, bucket, sys.stdin.buffer)
        print(f"{objects} objects loaded", file=sys.stderr)
        return 0
    print(__doc__, file=sys.stderr)
    return 2


def save(client: Any, bucket: str, archive: IO[bytes]) -> int:
    """Write every object to *archive*; how many.

    Servers merge telemetry meanwhile: what vanishes may have become an object whose key the walk had passed. So the
    bucket is walked twice at least, and again until nothing vanishes between being listed and being read; whatever
    was there at the start is then in the archive, as it was or as what it became. Raises Unrest.
    """
    saved: set[str] = set()
    with tarfile.open(fileobj=archive, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for walk in range(_WALKS):
            vanished = False
            for key in _keys(client, bucket):
                if key in saved:
                    continue
                try:
                    answer = client.get_object(Bucket=bucket, Key=key)
                except client.exceptions.NoSuchKey:
                    vanished = True
                    continue
                tar.addfile(_header(key, answer), answer["Body"])
                saved.add(key)
            if walk and not vanished:
                return len(saved)
        raise Unrest(f"objects of {bucket} vanished during each of {_WALKS} walks: save it when less is going on")


def _keys(client: Any, bucket: str) -> Iterator[str]:
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for found in page.get("Contents", []):
            yield found["Key"]


def _header(key: str, answer: dict[str, Any]) -> tarfile.TarInfo:
    member = tarfile.TarInfo(key)
    member.size = answer["ContentLength"]
    member.mtime = int(answer["LastModified"].timestamp())
    member.pax_headers = {_METADATA: json.dumps(answer["Metadata"])}
    return member


def load(client: Any, bucket: str, archive: IO[bytes]) -> int:
    """Put every object of *archive* into *bucket*; how many."""
    loaded = 0
    with tarfile.open(fileobj=archive, mode="r|") as tar:
        for member in tar:
            content = tar.extractfile(member)
            if content is not None:
                extra = {"Metadata": json.loads(member.pax_headers.get(_METADATA, "{}"))}
                client.upload_fileobj(_Sequential(content), bucket, member.name, ExtraArgs=extra)
                loaded += 1
    return loaded


class _Sequential:
    """A file of which only `read` is known, so that boto3 does not try to seek in a stream."""

    def __init__(self, content: IO[bytes]) -> None:
        self.read = content.read


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
