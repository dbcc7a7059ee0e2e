"""Copy the store's bucket out of the object store and into one, as a tar archive: `python buckets.py save > FILE`,
`python buckets.py load < FILE`. TRIMTAB_STORE names the bucket; credentials come by boto3's usual means.

An object's own metadata goes with it (the archive's headers hold it). `load` overwrites nothing: a bucket with objects
in it is refused, because a mixture of two places would be neither."""

from __future__ import annotations

import json
import os
import sys
import tarfile
from typing import IO, Any
from urllib.parse import urlsplit

_METADATA = "TRIMTAB.metadata"


def main(arguments: list[str]) -> int:
    """Copy; 1 when the bucket to load into is not empty, 2 for another word than save or load."""
    import boto3

    bucket = urlsplit(os.environ["TRIMTAB_STORE"]).netloc
    region = os.environ.get("AWS_DEFAULT_REGION", "us-east-1")
    client = boto3.client("s3", endpoint_url=os.environ.get("TRIMTAB_STORE_ENDPOINT"), region_name=region)
    if arguments == ["save"]:
        objects = save(client, bucket, sys.stdout.buffer)
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
    """Write every object to *archive*; how many. One that vanishes meanwhile was to be forgotten, and is left out."""
    saved = 0
    with tarfile.open(fileobj=archive, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            for found in page.get("Contents", []):
                try:
                    answer = client.get_object(Bucket=bucket, Key=found["Key"])
                except client.exceptions.NoSuchKey:
                    continue
                member = tarfile.TarInfo(found["Key"])
                member.size = answer["ContentLength"]
                member.mtime = int(answer["LastModified"].timestamp())
                member.pax_headers = {_METADATA: json.dumps(answer["Metadata"])}
                tar.addfile(member, answer["Body"])
                saved += 1
    return saved


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
