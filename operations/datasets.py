"""Which dataset version is the newest, and how the next becomes it: made from the newest and the files that changed,
pushed, and only then named in the ledger. Who loses that race begins again from the winner's version, so that a run
needs none of the other files and no run waits for another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from prefect import task

from operations.context import ProjectContext
from stores.ledger import ConflictError, DatasetHead
from tasks import dataset
from tasks.dataset import DatasetVersion
from tasks.retries import RETRIED

next_version = task(name="next-version", **RETRIED)(dataset.extend)


def current(ctx: ProjectContext) -> DatasetVersion:
    """The newest dataset version. Raises DatasetError when there is none yet."""
    head = newest(ctx)
    if head is None:
        return dataset.current(ctx.root)
    return DatasetVersion(head.hash, head.pointer)


def newest(ctx: ProjectContext) -> DatasetHead | None:
    """The newest version by the ledger, after what a person did to `data.dvc` by hand has been taken in; None before
    the first."""
    if ctx.ledger.head() is None:
        _take_first(ctx)
    while (head := ctx.ledger.head()) is not None and (theirs := dataset.manual_change(ctx.workspace)) is not None:
        _take_in(ctx, head, theirs)
    return ctx.ledger.head()


def advance(
    ctx: ProjectContext, files: Mapping[str, Path | None], *, period: str, cause: str, message: str
) -> DatasetVersion:
    """The dataset with *files* (name below `data/` → file, None to leave it out) as the newest version; when it holds
    them already, that one. Safe to repeat, and while others do the same or something else."""
    while True:
        head = newest(ctx)
        base = DatasetVersion(head.hash, head.pointer) if head else None
        made = next_version(ctx.workspace, base, files, remote=ctx.remote)
        if head is not None and made.hash == head.hash:
            break
        try:
            ctx.ledger.move_head(
                made.hash, pointer=made.pointer, expected=head.version if head else 0, period=period, cause=cause
            )
            break
        except ConflictError:
            print("Another run made a dataset version meanwhile: once more, from there.")
    git_commit = _point(ctx, made, message)
    ctx.ledger.record_dataset(made.hash, pointer=made.pointer, period=period, cause=cause, git_commit=git_commit)
    return made


def bring(ctx: ProjectContext, name: str) -> Path:
    """The file called *name* below `data/` in the newest version, and no other. Raises DatasetError."""
    folder, _, rest = name.partition("/")
    return dataset.fetch_file(ctx.workspace, current(ctx).hash, name=f"{folder}/{rest}", remote=ctx.remote)


def _take_first(ctx: ProjectContext) -> None:
    """Begin with what `data.dvc` names, if it can be had: a clone may hold one whose rows were never made here."""
    home = next((root for root in (ctx.workspace, ctx.root) if (root / "data.dvc").exists()), None)
    if home is None or not (ctx.workspace / ".dvc").exists():
        return
    found = dataset.current(home)
    if not dataset.publish(ctx.workspace, found, remote=ctx.remote):
        print(f"data.dvc names {found.hash}, which is in no cache or remote: the dataset begins anew.")
        return
    if _move(ctx, found, expected=0, cause="found") and home == ctx.workspace:
        dataset.mark_as_ours(ctx.workspace, found)


def _take_in(ctx: ProjectContext, head: DatasetHead, theirs: DatasetVersion) -> None:
    """Somebody changed `data.dvc`: what differs from what we wrote there last is theirs and joins the newest version.
    Where many share a store, going back to an older version is nobody's wish for all: it is written over."""
    written = dataset.last_written(ctx.workspace)
    assert written is not None  # there is nothing by hand without it
    is_old = ctx.remote is not None and theirs.hash in {known.hash for known in ctx.ledger.heads()}
    if is_old:
        print(f"data.dvc names the older version {theirs.hash}; the newest, {head.hash}, counts.")
    else:
        changes = dataset.differences(ctx.workspace, written, theirs.hash, remote=ctx.remote)
        base = DatasetVersion(head.hash, head.pointer)
        made = next_version(ctx.workspace, base, changes, remote=ctx.remote)
        print(f"data.dvc was changed by hand: {', '.join(sorted(changes)) or 'nothing'} taken in as {made.hash}.")
        if made.hash != head.hash and not _move(ctx, made, expected=head.version, cause="by hand"):
            return  # somebody was faster: once more, from theirs
    dataset.mark_as_ours(ctx.workspace, theirs)


def _move(ctx: ProjectContext, made: DatasetVersion, *, expected: int, cause: str) -> bool:
    """Make it the newest version; False when another has become that meanwhile."""
    try:
        ctx.ledger.move_head(made.hash, pointer=made.pointer, expected=expected, period="", cause=cause)
    except ConflictError:
        return False
    ctx.ledger.record_dataset(made.hash, pointer=made.pointer, period="", cause=cause)
    return True


def _point(ctx: ProjectContext, made: DatasetVersion, message: str) -> str | None:
    """Let `data.dvc` name the newest version, committed where that is wished; the commit, if it holds *made*."""

    def by_ledger() -> DatasetVersion:
        head = ctx.ledger.head()
        return DatasetVersion(head.hash, head.pointer) if head else made

    named = dataset.sync_pointer(ctx.workspace, by_ledger)
    if not ctx.settings.commit_data or ctx.workspace != ctx.root:
        return None
    commit = dataset.commit(ctx.root, message)
    return commit if named.hash == made.hash else None
