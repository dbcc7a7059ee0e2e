"""Docker, through its SDK: build images with a release inside, start, inspect and remove containers. A container's
labels are the only record of what it is for."""

from __future__ import annotations

import io
import re
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PORT = 8000  # of the model server, in every one of its containers
_TIMEOUT_S = 60
_AWAY = {502, 503, 504}  # what a proxy in front of the engine, or a registry, says while it is away
_NO_REGISTRY = re.compile(
    r"dial tcp|connection re(fused|set)|no such host|i/o timeout|handshake timeout|deadline exceeded|Client\.Timeout"
    r"|unexpected EOF|: EOF|(HTTP|received unexpected) status:? 5\d\d|Service Unavailable|toomanyrequests",
    re.IGNORECASE,
)
_SCRATCH = {"/tmp": "mode=1777"}  # nosec B108 # of a container with one process owner


class EngineRejected(RuntimeError):
    """Docker denied the request; the text says what was asked and what it answered."""


class EngineUnavailable(EngineRejected):
    """The engine, or the registry that it asked, does not answer. A retry may succeed."""


@dataclass(frozen=True)
class Image:
    """An image that the engine has."""

    id: str
    labels: Mapping[str, str]


@dataclass(frozen=True)
class Container:
    """The state of a container. *address* is that of its port 8000 on its first network."""

    name: str
    state: str
    image: str
    labels: Mapping[str, str]
    address: str | None
    started_at: datetime | None

    @property
    def runs(self) -> bool:
        """Whether its process is there."""
        return self.state == "running"


def engine_version() -> str:
    """The engine's version. Raises EngineUnavailable when none answers."""
    with _engine("be asked for its version") as engine:
        return str(engine.version()["Version"])


def find(labels: Mapping[str, str]) -> list[Container]:
    """Return the containers with all these labels, stopped ones too, sorted by name."""
    with _engine("list containers") as engine:
        found = engine.containers.list(all=True, filters={"label": _texts(labels)}, ignore_removed=True)
        return sorted((_to_container(container) for container in found), key=lambda container: container.name)


def find_image(reference: str) -> Image | None:
    """Return the image, pulled from its registry if needed; None when it does not exist."""
    from docker.errors import APIError, ImageNotFound, NotFound

    with _engine(f"look for the image {reference}") as engine:
        try:
            found = engine.images.get(reference)
        except ImageNotFound:
            if "/" not in reference:  # of this engine only
                return None
            try:
                found = engine.images.pull(reference)
            except (APIError, ImageNotFound, NotFound):
                return None
        return Image(str(found.id), dict(found.labels))


def bake(
    folder: Path, target: str, *, base: str, reference: str, labels: Mapping[str, str], environment: Mapping[str, str]
) -> None:
    """Build the image *reference*: *base* plus the files of *folder* at *target* and these variables. Safe to
    repeat."""
    from docker.errors import BuildError

    lines = [f"FROM {base}", *(f"ENV {name}={value}" for name, value in environment.items()), f"COPY bundle {target}"]
    with _engine(f"build {reference} from {base}") as engine:
        try:
            engine.images.build(
                fileobj=_context(folder, lines), custom_context=True, tag=reference, labels=dict(labels), rm=True,
                forcerm=True,
            )  # fmt: skip
        except BuildError as error:
            raise error_type(str(error.msg))(f"{reference} cannot be built from {base}: {error.msg}") from error


def push(reference: str) -> None:
    """Push the image to its registry with the credentials of the engine's user."""
    with _engine(f"push {reference}") as engine:
        for line in engine.images.push(reference, stream=True, decode=True):
            if "error" in line:
                raise error_type(str(line["error"]))(f"{reference} cannot be pushed: {line['error']}")


def remove_image(reference: str) -> None:
    """Remove the image's name; a missing image is no error. Layers stay while another image or a container uses
    them."""
    from docker.errors import APIError, ImageNotFound

    with _engine(f"remove {reference}") as engine:
        try:
            engine.images.remove(reference)
        except ImageNotFound:
            return
        except APIError as error:
            if error.status_code != 409:  # a container has it
                raise


def start(
    name: str,
    image: str,
    *,
    labels: Mapping[str, str],
    environment: Mapping[str, str],
    network: str,
    volumes: Sequence[str],
    replace: bool,
) -> Container:
    """Return the running container *name*, created if needed. An existing one of the same image is started and kept;
    one of another image is replaced with *replace*, and kept otherwise."""
    from docker.errors import APIError

    def created(engine: Any) -> Any:
        return engine.containers.create(
            image, name=name, labels=dict(labels), environment=dict(environment), network=network,
            volumes=list(volumes), detach=True, init=True, read_only=True, tmpfs=_SCRATCH,
            cap_drop=["ALL"], security_opt=["no-new-privileges"],
            restart_policy={"Name": "unless-stopped"},
        )  # fmt: skip

    with _engine(f"start {name} from {image}") as engine:
        try:
            container = created(engine)
        except APIError as error:
            if error.status_code != 409:
                raise
            container = engine.containers.get(name)  # another run was first, or this one before it was interrupted
            if replace and container.attrs["Image"] != engine.images.get(image).id:
                container.remove(force=True, v=True)
                container = created(engine)
        container.start()
        container.reload()
        return _to_container(container)


def inspect(name: str) -> Container | None:
    """Return the container's state, or None when it does not exist."""
    from docker.errors import NotFound

    with _engine(f"look at {name}") as engine:
        try:
            return _to_container(engine.containers.get(name))
        except NotFound:
            return None


def tail_logs(name: str, lines: int = 15) -> str:
    """Return the last lines of a container's logs."""
    from docker.errors import NotFound

    with _engine(f"read what {name} wrote") as engine:
        try:
            return str(engine.containers.get(name).logs(tail=lines).decode(errors="replace").strip())
        except NotFound:
            return ""


def remove(name: str, *, stop_s: int = 0) -> int | None:
    """Stop a container, with *stop_s* seconds to finish, and remove it. Return its exit code; None when it did not
    exist."""
    from docker.errors import APIError, NotFound

    with _engine(f"take {name} away") as engine:
        try:
            container = engine.containers.get(name)
            if stop_s:
                container.stop(timeout=stop_s)
                container.reload()
            code = container.attrs["State"].get("ExitCode")
            container.remove(force=True, v=True)  # nameless volumes only
        except NotFound:
            return None
        except APIError as error:
            if error.status_code != 409:  # another is removing it
                raise
            return None
        return None if code is None else int(code)


def remove_exited(labels: Mapping[str, str], older_s: float) -> int:
    """Remove containers that exited more than *older_s* seconds ago. Return how many."""
    with _engine("remove ended containers") as engine:
        filters = {"label": _texts(labels), "status": ["exited", "dead"]}
        ended = engine.containers.list(all=True, filters=filters, ignore_removed=True)
        old = [c.name for c in ended if _age_s(c.attrs["State"].get("FinishedAt")) > older_s]
    return sum(remove(name) is not None for name in old)


def write_file(name: str, path: str, content: bytes, *, then_signal: str) -> None:
    """Replace a file in a running container and send its first process a signal."""
    from docker.errors import NotFound

    folder, _, file = path.rpartition("/")
    with _engine(f"write {path} in {name}") as engine:
        try:
            container = engine.containers.get(name)
        except NotFound as error:
            raise EngineRejected(f"there is no container {name} to write {path} into") from error
        if not container.put_archive(folder or "/", _archive({file: content})):
            raise EngineRejected(f"{path} could not be written into {name}")
        container.kill(signal=then_signal)


@contextmanager
def _engine(what: str) -> Iterator[Any]:
    """A connection to the engine that DOCKER_HOST names. Raises EngineRejected for whatever it says no to;
    EngineUnavailable when it says nothing."""
    import docker
    from docker.errors import APIError, DockerException
    from requests.exceptions import RequestException
    from urllib3.exceptions import HTTPError

    try:
        engine = docker.from_env(timeout=_TIMEOUT_S)
    except DockerException as error:
        raise EngineUnavailable(f"no Docker engine answers, so it cannot {what}: {error}") from error
    try:
        yield engine
    except APIError as error:
        kind = EngineUnavailable if error.status_code in _AWAY else error_type(str(error))
        raise kind(f"Docker would not {what}: {error}") from error
    except DockerException as error:
        raise EngineRejected(f"Docker would not {what}: {error}") from error
    except (RequestException, HTTPError) as error:  # the latter while it reads what comes in pieces
        raise EngineUnavailable(f"Docker ceased to answer when it was to {what}: {error}") from error
    finally:
        engine.close()


def error_type(said: str) -> type[EngineRejected]:
    """The type of an error: unavailable when a registry did not answer, rejected otherwise. Docker reports both only as
    text."""
    return EngineUnavailable if _NO_REGISTRY.search(said) else EngineRejected


def _to_container(container: Any) -> Container:
    attrs = container.attrs
    networks = attrs.get("NetworkSettings", {}).get("Networks") or {}
    addresses = [net["IPAddress"] for net in networks.values() if net.get("IPAddress")]
    return Container(
        name=container.name, state=attrs["State"]["Status"], image=attrs["Config"]["Image"],
        labels=dict(attrs["Config"].get("Labels") or {}),
        address=f"http://{addresses[0]}:{PORT}" if addresses else None,
        started_at=_moment(attrs["State"].get("StartedAt")),
    )  # fmt: skip


def _texts(labels: Mapping[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in labels.items()]


def _moment(text: str | None) -> datetime | None:
    """Docker's time, which has nanoseconds; year 1 stands for never."""
    if not text or text.startswith("0001"):
        return None
    return datetime.fromisoformat(text[:19]).replace(tzinfo=UTC)


def _age_s(text: str | None) -> float:
    moment = _moment(text)
    return (datetime.now(UTC) - moment).total_seconds() if moment else 0.0


def _context(folder: Path, lines: Sequence[str]) -> io.BytesIO:
    files = {f"bundle/{p.relative_to(folder)}": p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    return io.BytesIO(_archive({"Dockerfile": "\n".join(lines).encode(), **files}))


def _archive(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            entry.mtime = int(time.time()) if name != "Dockerfile" and not name.startswith("bundle/") else 0
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()
