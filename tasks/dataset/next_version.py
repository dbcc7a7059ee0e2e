"""Makes the next dataset version from the previous one and the changed files, without touching other files, and writes
`data.dvc`. The ledger decides whether it becomes the newest (`operations.datasets`)."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tasks.dataset.reading import current, listing
from tasks.dataset.repository import DatasetError, DatasetVersion, Remote, load_tree, md5, open_repository, push

_OURS = Path(".dvc") / "tmp" / "trimtab-wrote"
_EMPTY = "outs:\n- md5: ''\n  size: 0\n  nfiles: 0\n  hash: md5\n  path: data\n"


def extend(
    project: Path, base: DatasetVersion | None, files: Mapping[str, Path | None], *, remote: Remote | None = None
) -> DatasetVersion:
    """Return the version with the files of *base* (None: empty) changed by *files* (name below `data/` → file, or None
    to remove it). Its objects are in the cache and the remote, its list is written last; *base* itself when nothing
    changed.

    Nothing else is written, so an interrupted call does no harm and a repeated one completes it. Raises DatasetError
    when *base* is not available, and Unavailable when the remote does not accept the files.
    """
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree

    with open_repository(project, remote) as repo:
        cache, before, entries = repo.cache.local, _entries(repo, base), {}
        entries.update(before)
        fresh: list[Any] = []
        grown: int = 0
        for name, path in sorted(files.items()):
            key = tuple(name.split("/"))
            old = entries.pop(key, None)
            info, size = _keep(project, cache, path) if path is not None else (None, 0)
            if info is not None:
                entries[key] = info
            if info != old:
                grown += size - (_size(repo, old) if old is not None else 0)
                fresh += [info] if info is not None else []
        if base is not None and entries == before:
            return base
        tree: Any = Tree()  # type: ignore[no-untyped-call]
        for key, info in entries.items():
            tree.add(key, None, info)
        tree.digest()
        push(repo, fresh)
        cache.add(tree.path, tree.fs, tree.oid, hardlink=False)
        push(repo, [HashInfo("md5", tree.oid)])
        pointer = _pointer(base.pointer if base else _EMPTY, tree.oid, grown=grown, files=len(entries))
        return DatasetVersion(tree.oid, pointer)


def publish(project: Path, version: DatasetVersion, *, remote: Remote | None = None) -> bool:
    """Push all of *version* to the remote, as a manual `dvc add` may not have done. False when the version is
    incomplete in cache and remote."""
    from dvc_data.hashfile.hash_info import HashInfo

    with open_repository(project, remote) as repo:
        try:
            push(repo, [info for _, _, info in load_tree(repo, version.hash)])
        except FileNotFoundError:
            return False
        push(repo, [HashInfo("md5", version.hash)])
    return True


def differences(project: Path, old: str, new: str, *, remote: Remote | None = None) -> dict[str, Path | None]:
    """Return the changes from the version *old* to *new*, as `extend` takes them. Raises DatasetError."""
    from dvc_data.hashfile.hash_info import HashInfo

    from tasks.dataset.repository import fetch

    before, after = (listing(project, hash, remote=remote) for hash in (old, new))
    if before is None or after is None:
        raise DatasetError(
            f"dataset version {new if after is None else old} is neither in DVC's cache nor its remote: `dvc push` it, "
            "or `git checkout data.dvc`"
        )
    changed = {name for name in {*before, *after} if before.get(name) != after.get(name)}
    with open_repository(project, remote) as repo:
        fetch(repo, [HashInfo("md5", after[name]) for name in changed if name in after])
        found = {name: Path(repo.cache.local.oid_to_path(after[name])) if name in after else None for name in changed}
    return dict(found)


def manual_change(project: Path) -> DatasetVersion | None:
    """Return the version that `data.dvc` names if it was not written by `sync_pointer`; None otherwise."""
    if not (project / "data.dvc").exists() or not (project / _OURS).exists():
        return None
    found = current(project)
    return None if found.hash in (project / _OURS).read_text().split() else found


def last_written(project: Path) -> str | None:
    """Return the hash that `sync_pointer` wrote to `data.dvc` last."""
    path = project / _OURS
    return path.read_text().split()[-1] if path.exists() else None


def sync_pointer(project: Path, newest: Callable[[], DatasetVersion]) -> DatasetVersion:
    """Write the *newest* version to `data.dvc`. It is read under the lock, so that of several processes the last to
    write has read the newest. A manual change of `data.dvc` that is not merged yet is kept."""
    with _exclusive(project):
        version = newest()
        if manual_change(project) is not None:
            return version
        before = current(project).hash if (project / "data.dvc").exists() else ""
        _write(project / _OURS, f"{before}\n{version.hash}\n")  # both are ours, whenever we are killed
        if not (project / "data.dvc").exists() or (project / "data.dvc").read_text() != version.pointer:
            _write(project / "data.dvc", version.pointer)
        _write(project / _OURS, f"{version.hash}\n")
    return version


def mark_as_ours(project: Path, taken: DatasetVersion) -> None:
    """*taken*, which `data.dvc` named, has been taken in; whatever it names by now has not."""
    with _exclusive(project):
        _write(project / _OURS, f"{taken.hash}\n")


@contextmanager
def _exclusive(project: Path) -> Iterator[None]:
    folder = project / ".dvc" / "tmp"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "trimtab-pointer.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write(path: Path, text: str) -> None:
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=".data.dvc-")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
        Path(draft).chmod(0o644)
        os.replace(draft, path)
    finally:
        Path(draft).unlink(missing_ok=True)


def _entries(repo: Any, base: DatasetVersion | None) -> dict[tuple[str, ...], Any]:
    if base is None:
        return {}
    try:
        return {key: info for key, _, info in load_tree(repo, base.hash)}
    except FileNotFoundError:
        raise DatasetError(
            f"dataset version {base.hash}, which the next one is made from, is neither in DVC's cache nor its remote: "
            "`dvc push` it from where it was made"
        ) from None


def _keep(project: Path, cache: Any, path: Path) -> tuple[Any, int]:
    """The file as an object of the cache, read once: it may be replaced while we look. Its hash and size."""
    from dvc.fs import LocalFileSystem
    from dvc_data.hashfile.hash_info import HashInfo

    content = path.read_bytes()
    info = HashInfo("md5", md5(content))
    if not Path(cache.oid_to_path(info.value)).exists():
        with tempfile.NamedTemporaryFile(dir=project / ".dvc" / "tmp") as copy:
            copy.write(content)
            copy.flush()
            cache.add(copy.name, LocalFileSystem(), info.value, hardlink=False)
    return info, len(content)


def _size(repo: Any, info: Any) -> int:
    """Bytes of an object, wherever it is."""
    here = Path(repo.cache.local.oid_to_path(info.value))
    if here.exists():
        return here.stat().st_size
    remote = repo.cloud.get_remote_odb()
    return int(remote.fs.size(remote.oid_to_path(info.value)))


def _pointer(text: str, hash: str, *, grown: int, files: int) -> str:
    """The text of `data.dvc` for *hash*: as DVC writes it, with whatever else is in *text*."""
    content = yaml.safe_load(text)
    out = content["outs"][0]
    counted = {"size": out["size"] + grown} if "size" in out else {}
    content["outs"][0] = {"md5": hash, **counted, "nfiles": files, "hash": "md5", **_foreign_keys(out)}
    return str(yaml.safe_dump(content, sort_keys=False))


def _foreign_keys(out: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in out.items() if name not in ("md5", "size", "nfiles", "hash")}
