"""Opens a project's DVC repository, and fetches, checks and pushes its objects."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

os.environ.setdefault("DVC_NO_ANALYTICS", "1")
logging.getLogger("dvc.repo.scm_context").setLevel(logging.WARNING)  # advises to run git commands

T = TypeVar("T")


class DatasetError(RuntimeError):
    """A dataset version that cannot be made or read; the message says what to do."""


class NoRows(DatasetError, LookupError):
    """The dataset version has no such rows; a retry cannot help."""


class Unavailable(DatasetError, ConnectionError):
    """The DVC remote is unavailable; a retry may succeed."""


@dataclass(frozen=True)
class DatasetVersion:
    """What `data/` held: DVC's *hash*, and the text of `data.dvc` (*pointer*) that names it."""

    hash: str
    pointer: str
    git_commit: str | None = None


@dataclass(frozen=True)
class Remote:
    """A DVC remote instead of the one that the project names: ``s3://bucket/prefix``, at an S3 server of one's own when
    *endpoint* is given. Credentials are those of the environment, as boto3 finds them."""

    url: str
    endpoint: str | None = None


def init(project: Path) -> None:
    """Make *project* a DVC project with a local folder as its remote, unless it is one already."""
    if (project / ".dvc" / "config").exists():
        return
    from dvc.repo import Repo

    is_git = (project / ".git").exists()
    project.mkdir(parents=True, exist_ok=True)
    Repo.init(str(project), no_scm=not is_git, force=True).close()
    own = ("/config.local", "/tmp", "/cache")  # nosec B108 # .dvc/tmp; in a subfolder of a repository DVC writes none
    _ignore_in_git(project / ".dvc" / ".gitignore", *own)
    _ignore_in_git(project / ".gitignore", "/data")
    without_git = "" if is_git else "    no_scm = true\n"
    (project / ".dvc" / "config").write_text(
        f"[core]\n    remote = local\n    analytics = false\n    autostage = false\n{without_git}"
        "['remote \"local\"']\n    url = ../.trimtab/dvc-remote\n"
    )


def _ignore_in_git(file: Path, *patterns: str) -> None:
    """Add *patterns* to a .gitignore that lacks them; what is there stays."""
    before = file.read_text() if file.exists() else ""
    missing = [pattern for pattern in patterns if pattern not in before.split()]
    if missing:
        gap = "" if not before or before.endswith("\n") else "\n"
        file.write_text(f"{before}{gap}" + "".join(f"{pattern}\n" for pattern in missing))


@contextmanager
def open_repository(project: Path, remote: Remote | None = None, *, with_git: bool = False) -> Iterator[Any]:
    """DVC's `Repo` of *project*; *remote* holds while it is open and is written nowhere."""
    from dvc.repo import Repo

    site = project / ".dvc" / "tmp" / "site"
    site.parent.mkdir(parents=True, exist_ok=True)
    site.mkdir(mode=0o700, exist_ok=True)  # what DVC makes in it can be written by everybody
    site.chmod(0o700)
    core: dict[str, Any] = {"site_cache_dir": str(site)}
    if not with_git:
        core["no_scm"] = True
    config: dict[str, Any] = {"core": core}
    if remote is not None:
        core["remote"] = "store"
        config["remote"] = {"store": _access(remote)}
    with Repo(str(project), config=config) as repo:
        yield repo


def _access(remote: Remote) -> dict[str, str]:
    """The remote in DVC's words."""
    from stores.object_store.s3 import credentials_from_files

    secrets = {name.removeprefix("aws_"): value for name, value in credentials_from_files().items()}
    endpoint = {"endpointurl": remote.endpoint} if remote.endpoint else {}
    return {"url": remote.url.rstrip("/"), **endpoint, **secrets}


def load_tree(repo: Any, hash: str) -> Any:
    """DVC's list of the files of the dataset version *hash*, fetched when it is not in the cache.

    Raises FileNotFoundError when it is in no cache or remote, Unavailable when that cannot be known.
    """
    from dvc_data.hashfile import load
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_objects.errors import ObjectFormatError

    info = HashInfo("md5", hash)
    try:
        return load(repo.cache.local, info)
    except (FileNotFoundError, ObjectFormatError):
        fetch(repo, [info])
    return load(repo.cache.local, info)


def fetch(repo: Any, infos: Iterable[Any]) -> None:
    """Fetch the objects *infos*, and no others, from the remote into the cache and check their hashes.

    Raises FileNotFoundError when the remote does not have one, Unavailable when it does not answer.
    """
    cache = repo.cache.local
    wanted = [info for info in infos if not Path(cache.oid_to_path(info.value)).exists()]
    if not wanted:
        return
    copy_objects(repo, repo.cloud.get_remote_odb, lambda: cache, wanted)
    for info in wanted:
        path = Path(cache.oid_to_path(info.value))
        if md5(path.read_bytes()) != info.value.removesuffix(".dir"):
            path.unlink(missing_ok=True)
            raise Unavailable(f"object {info.value} came from DVC's remote damaged: run this again, or push it anew")


def push(repo: Any, infos: Iterable[Any]) -> None:
    """Push the objects *infos* from the cache to the remote unless they are there.

    Raises FileNotFoundError when one is in neither, Unavailable when not all arrived.
    """
    copy_objects(repo, lambda: repo.cache.local, repo.cloud.get_remote_odb, list(infos))


def copy_objects(repo: Any, source: Callable[[], Any], target: Callable[[], Any], infos: list[Any]) -> None:
    """Copy objects between a cache and a remote. Raises as `push` does; what has arrived stays."""
    from dvc.exceptions import DvcException
    from dvc_data.hashfile.transfer import transfer

    nowhere: list[str] = []

    def note(status: Any) -> None:
        nowhere.extend(str(info.value) for info in status.missing)

    try:
        failed = transfer(source(), target(), set(infos), shallow=True, validate_status=note).failed
    except (OSError, DvcException) as error:
        raise Unavailable(f"DVC's remote {remote_url(repo)} cannot be used: {_explain(error)}") from error
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("botocore", "aiobotocore", "aiohttp"):
            raise
        raise Unavailable(f"DVC's remote {remote_url(repo)} cannot be used: {_explain(error)}") from error
    if nowhere:
        raise FileNotFoundError(f"{len(nowhere)} objects are neither in DVC's cache nor its remote, {nowhere[0]} too")
    if failed:
        raise Unavailable(
            f"{len(failed)} objects could not be copied from or to DVC's remote {remote_url(repo)}: try again"
        )


def _explain(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def remote_url(repo: Any) -> str:
    """The remote's address, for people."""
    name = repo.config["core"].get("remote", "")
    return str(repo.config["remote"].get(name, {}).get("url", name))


def md5(content: bytes) -> str:
    """DVC's name for *content*."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def retry_locked(act: Callable[[], T], *, wait_s: float = 60.0) -> T:
    """Call *act*, waiting up to *wait_s* seconds while another process holds DVC's lock (DVC itself gives up after
    three). Raises DatasetError after that."""
    from dvc.lock import LockError

    deadline = time.monotonic() + wait_s
    while True:
        try:
            return act()
        except LockError as error:
            if time.monotonic() > deadline:
                raise DatasetError(f"DVC was locked by another process for {wait_s:.0f} s: {error}") from error
            time.sleep(0.2)
