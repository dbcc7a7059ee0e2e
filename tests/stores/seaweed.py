"""A real S3 server for tests (SeaweedFS from its wheel), on ports and in a folder of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stores.object_store.store import ObjectStore
from tests.ports import free_ports

KEY, SECRET = "trimtab-test", "not-a-secret-of-anyone"
BUCKET = "tests"
_GRPC = 10_000  # so much higher is the second port that each part of it takes


@dataclass(frozen=True)
class Seaweed:
    """A running server."""

    endpoint: str

    @property
    def port(self) -> int:
        return int(self.endpoint.rsplit(":", 1)[1])

    @property
    def client(self) -> Any:
        """boto3's own client, to look behind the scenes."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3", endpoint_url=self.endpoint, region_name="us-east-1", aws_access_key_id=KEY,
            aws_secret_access_key=SECRET, config=Config(s3={"addressing_style": "path"}),
        )  # fmt: skip

    def place(self) -> str:
        """The URL of a new place. All are in one bucket: each takes some volumes of a server that has few."""
        return f"s3://{BUCKET}/some/{uuid.uuid4().hex[:12]}/place"

    def objects(self, url: str | None = None, **options: Any) -> ObjectStore:
        """A new place, or that one."""
        return ObjectStore(url or self.place(), **{"endpoint": self.endpoint, **options})


def credentials() -> dict[str, str]:
    """What leads in, as environment variables."""
    return {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_EC2_METADATA_DISABLED": "true"}


@contextmanager
def running(folder: Path) -> Iterator[Seaweed]:
    """A server while this lasts; what it keeps is in *folder*."""
    names = ("s3.port", "master.port", "volume.port", "filer.port", "admin.port")
    ports = dict(zip(names, free_ports(len(names), beside=_GRPC), strict=True))
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        str(Path(sys.executable).parent / "weed"), "-logtostderr=true", "mini", f"-dir={folder}", "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1", "-s3.port.iceberg=0", "-s3.port.lance=0", "-admin.ui=false", "-webdav=false",
        "-master.telemetry=false", "-s3.autoCreateBucket=false", f"-bucket={BUCKET}",
        *(f"-{name}={port}" for name, port in ports.items()),
    ]  # fmt: skip
    with (folder.parent / f"{folder.name}.log").open("wb") as said:
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **credentials()}, stdin=subprocess.DEVNULL, stdout=said,
            stderr=said, start_new_session=True,
        )  # fmt: skip
    found = Seaweed(f"http://127.0.0.1:{ports['s3.port']}")
    try:
        _wait(found, process)
        yield found
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # it would take five seconds to put everything in order
        process.wait()


def _wait(server: Seaweed, process: subprocess.Popen[bytes], *, patience_s: float = 60) -> None:
    """Until something can be written."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            server.objects().put("ready", b"yes")
            return
        except Exception:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.2)


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    """One server for all tests of a session, which keep apart by their places."""
    with pytest.MonkeyPatch.context() as patch, _started(tmp_path_factory.mktemp("seaweed"), patch) as server:
        yield server


@contextmanager
def _started(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Seaweed]:
    for name, value in credentials().items():
        patch.setenv(name, value)
    with running(folder / "data") as server:
        yield server


def shorten_retries(patch: pytest.MonkeyPatch) -> None:
    """Let botocore try as often as it does, with hardly a pause between."""
    patch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.05)
