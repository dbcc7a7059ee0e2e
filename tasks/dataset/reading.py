"""Reading dataset versions: which one `data.dvc` names, what is in any of them, and its rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from stores.parquet_frames import read_frame
from tasks.dataset.repository import DatasetError, DatasetVersion, NoRows, Remote, fetch, load_tree, open_repository


def current(project: Path) -> DatasetVersion:
    """Return the version that `data.dvc` names. Raises DatasetError when there is none."""
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


def read(
    project: Path, hash: str, *, folder: str = "accepted", last: str | None = None, remote: Remote | None = None
) -> pd.DataFrame:
    """All rows under *folder* in the dataset version *hash*, up to the period *last*, oldest first."""
    wanted = paths(project, hash, folder=folder, last=last, remote=remote)
    if not wanted:
        raise NoRows(f"dataset version {hash} has no {folder} rows up to {last}: run ingest and validate first")
    return pd.concat([read_frame(wanted[name]) for name in sorted(wanted)], ignore_index=True)


def paths(
    project: Path, hash: str, *, folder: str, last: str | None = None, remote: Remote | None = None
) -> dict[str, Path]:
    """Name below *folder* (a period; in `landed` and `quarantined` a period and a digest) → file in DVC's cache, for
    the dataset version *hash* up to the period *last*. Files that are not in the cache are fetched, and only these.

    Raises DatasetError when the version or one of these files is in no cache or remote.
    """
    try:
        with open_repository(project, remote) as repo:
            tree: Any = load_tree(repo, hash)
            found = {"/".join(key[1:]).removesuffix(".parquet"): info for key, _, info in tree if key[0] == folder}
            wanted = {name: info for name, info in found.items() if last is None or name.split("/")[0] <= last}
            fetch(repo, wanted.values())
            return {name: Path(repo.cache.local.oid_to_path(info.value)) for name, info in wanted.items()}
    except FileNotFoundError as error:
        raise DatasetError(
            f"dataset version {hash} is not whole in DVC's cache and remote: {error}; `dvc push` it from where it is"
        ) from error


def fetch_file(project: Path, hash: str, *, name: str, remote: Remote | None = None) -> Path:
    """Return the path in DVC's cache of the file *name* (below `data/`) of the dataset version *hash*; only this file
    is fetched.

    Raises NoRows when the version does not have it, DatasetError when it is in no cache or remote.
    """
    try:
        with open_repository(project, remote) as repo:
            found = {"/".join(key): info for key, _, info in load_tree(repo, hash)}.get(name)
            if found is None:
                raise NoRows(f"dataset version {hash} has no file {name}")
            fetch(repo, [found])
            return Path(repo.cache.local.oid_to_path(found.value))
    except FileNotFoundError as error:
        raise DatasetError(f"{name} of dataset version {hash} is in no cache or remote: {error}") from error


def names(project: Path, hash: str, *, folder: str, remote: Remote | None = None) -> list[str]:
    """Return the names that `paths` would give files for, sorted; only the list is fetched."""
    found = listing(project, hash, remote=remote)
    if found is None:
        raise DatasetError(f"dataset version {hash} is neither in DVC's cache nor its remote: `dvc push` it")
    return sorted(
        name.removeprefix(f"{folder}/").removesuffix(".parquet") for name in found if name.startswith(f"{folder}/")
    )


def contents(project: Path) -> tuple[str, dict[str, str]]:
    """The hash that `data/` would have as it is now, and file → md5 in it. Nothing is written."""
    from dvc.fs import LocalFileSystem
    from dvc_data.hashfile.build import build

    with open_repository(project) as repo:
        folder = str(project / "data")
        tree: Any = build(repo.cache.local, folder, LocalFileSystem(), "md5", dry_run=True, ignore=repo.dvcignore)[2]
    return str(tree.hash_info.value), {"/".join(key): info.value for key, _, info in tree}


def listing(project: Path, hash: str, *, remote: Remote | None = None) -> dict[str, str] | None:
    """File → md5 in the dataset version *hash*; None when it is in no cache or remote."""
    with open_repository(project, remote) as repo:
        try:
            return {"/".join(key): info.value for key, _, info in load_tree(repo, hash)}
        except FileNotFoundError:
            return None
