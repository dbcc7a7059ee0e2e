"""DVC: versions of `data/`, and reading any of them by its hash.

The only module that knows DVC. Readers take files straight out of DVC's cache, where content never
changes, so a flow that trains is not disturbed by another that ingests."""

from __future__ import annotations

import logging
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import yaml

os.environ.setdefault("DVC_NO_ANALYTICS", "1")
logging.getLogger("dvc.repo.scm_context").setLevel(logging.WARNING)  # tells people to run git commands

T = TypeVar("T")


class DatasetError(RuntimeError):
    """A dataset version that cannot be made or read; the message says what to do."""


class NoRows(DatasetError, LookupError):
    """The dataset version has no rows of the kind that was asked for, and never will."""


@dataclass(frozen=True)
class DatasetVersion:
    """What `data/` held: DVC's *hash*, and the text of `data.dvc` (*pointer*) that names it."""

    hash: str
    pointer: str
    git_commit: str | None = None


def init(project: Path) -> None:
    """Make *project* a DVC project with a local folder as its remote, unless it is one."""
    if (project / ".dvc" / "config").exists():
        return
    from dvc.repo import Repo

    is_git = (project / ".git").exists()
    Repo.init(str(project), no_scm=not is_git, force=True).close()
    (project / ".dvc" / "config").write_text(
        "[core]\n    remote = local\n    analytics = false\n    autostage = false\n"
        "['remote \"local\"']\n    url = ../.trimtab/dvc-remote\n"
    )


def current(project: Path) -> DatasetVersion:
    """The version that `data.dvc` names now. Raises DatasetError when there is none."""
    try:
        pointer = (project / "data.dvc").read_text()
    except FileNotFoundError:
        raise DatasetError(f"{project} has no data.dvc yet: run ingest and validate for a first period") from None
    try:
        return DatasetVersion(hash=yaml.safe_load(pointer)["outs"][0]["md5"], pointer=pointer)
    except (yaml.YAMLError, TypeError, KeyError, IndexError):
        raise DatasetError(
            f"{project / 'data.dvc'} is not what DVC writes: `git checkout data.dvc`, or ingest a period again"
        ) from None


def save(project: Path, *, message: str, commit: bool = False) -> DatasetVersion:
    """Version `data/` as it is now and push it; with *commit*, commit `data.dvc` in the project's git.

    Safe to repeat, and while others do the same: DVC's lock is waited for.
    """

    def add() -> None:
        from dvc.repo import Repo

        with Repo(str(project)) as repo:
            repo.add(str(project / "data"))
            # At once: DVC forgets what was never pushed when a newer version is added.
            repo.push(targets=[str(project / "data.dvc")])

    _patiently(add)
    version = current(project)
    if not commit:
        return version
    return DatasetVersion(version.hash, version.pointer, _commit(project, message))


def read(project: Path, hash: str, *, folder: str = "accepted", last: str | None = None) -> pd.DataFrame:
    """All rows under *folder* in the dataset version *hash*, up to the period *last*, oldest first."""
    files = paths(project, hash, folder=folder)
    wanted = [path for name, path in sorted(files.items()) if last is None or name <= last]
    if not wanted:
        raise NoRows(f"dataset version {hash} has no {folder} rows up to {last}: run ingest and validate first")
    return pd.concat([pd.read_parquet(path) for path in wanted], ignore_index=True)


def paths(project: Path, hash: str, *, folder: str) -> dict[str, Path]:
    """Period → file in DVC's cache, for one folder of the dataset version *hash*; fetched when it is not there."""
    from dvc.repo import Repo
    from dvc_data.hashfile import load
    from dvc_data.hashfile.hash_info import HashInfo

    with Repo(str(project)) as repo:
        cache, info = repo.cache.local, HashInfo("md5", hash)
        try:
            tree: Any = load(cache, info)
        except (FileNotFoundError, OSError):
            _fetch(repo, info)
            tree = load(cache, info)
        entries = [(key, item.value) for key, _, item in tree if key[0] == folder]
        files = {key[1].removesuffix(".parquet"): Path(cache.oid_to_path(oid)) for key, oid in entries}
        if any(not path.exists() for path in files.values()):
            _fetch(repo, info)
    return files


def contents(project: Path) -> tuple[str, dict[str, str]]:
    """The hash that `data/` would have as it is now, and file → md5 in it. Nothing is written."""
    from dvc.fs import LocalFileSystem
    from dvc.repo import Repo
    from dvc_data.hashfile.build import build

    with Repo(str(project)) as repo:
        folder = str(project / "data")
        tree: Any = build(repo.cache.local, folder, LocalFileSystem(), "md5", dry_run=True, ignore=repo.dvcignore)[2]
    return str(tree.hash_info.value), {"/".join(key): info.value for key, _, info in tree}


def listing(project: Path, hash: str) -> dict[str, str] | None:
    """File → md5 in the dataset version *hash*; None when it is in no cache or remote."""
    from dvc.repo import Repo
    from dvc_data.hashfile import load
    from dvc_data.hashfile.hash_info import HashInfo

    with Repo(str(project)) as repo:
        for store in (repo.cache.local, repo.cloud.get_remote_odb()):
            try:
                tree: Any = load(store, HashInfo("md5", hash))
                return {"/".join(key): info.value for key, _, info in tree}
            except (FileNotFoundError, OSError):
                continue
    return None


def checkout(project: Path) -> None:
    """Lay `data/` out as `data.dvc` names it, fetching what is missing. Raises DatasetError when it cannot be had."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    def pull() -> None:
        with Repo(str(project)) as repo:
            repo.pull(targets=[str(project / "data.dvc")])

    try:
        _patiently(pull)
    except DvcException as error:
        raise DatasetError(f"data.dvc names rows that are in no cache or remote: {error}") from error


def _fetch(repo: Any, info: Any) -> None:
    from dvc_data.hashfile.transfer import transfer

    try:
        result = transfer(repo.cloud.get_remote_odb(), repo.cache.local, {info}, shallow=False)
    except FileNotFoundError as error:
        raise DatasetError(f"dataset version {info.value} is neither in DVC's cache nor its remote: {error}") from error
    if result.failed:
        raise DatasetError(f"{len(result.failed)} files of dataset version {info.value} are not in DVC's remote")


def _patiently(act: Callable[[], T], *, wait_s: float = 60.0) -> T:
    """Do *act*, waiting while another process holds DVC's lock; it gives up after three seconds itself."""
    from dvc.lock import LockError

    deadline = time.monotonic() + wait_s
    while True:
        try:
            return act()
        except LockError as error:
            if time.monotonic() > deadline:
                raise DatasetError(f"DVC was locked by another process for {wait_s:.0f} s: {error}") from error
            time.sleep(0.2)


def _commit(project: Path, message: str) -> str:
    """Commit `data.dvc` alone; the commit that holds it, new or old."""
    git = ["git", "-C", str(project)]
    who = [] if _run([*git, "config", "user.email"]).stdout else [
        "-c", "user.name=trimtab", "-c", "user.email=trimtab@localhost",
    ]  # fmt: skip
    added = _run([*git, "add", "--", "data.dvc"])
    if added.returncode:
        raise DatasetError(f"data.dvc cannot be committed in {project}: {added.stderr.strip()}")
    if _run([*git, "diff", "--cached", "--quiet", "--", "data.dvc"]).returncode:
        done = _run([*git, *who, "commit", "--quiet", "--no-verify", "-m", message, "--", "data.dvc"])
        if done.returncode and "nothing to commit" not in done.stdout:
            raise DatasetError(f"data.dvc could not be committed in {project}: {done.stderr or done.stdout}")
    return _run([*git, "log", "-1", "--format=%H", "--", "data.dvc"]).stdout.strip()


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)
