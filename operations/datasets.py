"""The newest dataset version, and how the next one replaces it.

The next version is made from the newest and the changed files, pushed, and only then named in the ledger. A run that
loses this race begins again from the winner's version, so that a run needs none of the other files and waits for no
other run.
"""

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
    """The newest version by the ledger, once a manual change of `data.dvc` is merged; None before the first."""
    if ctx.ledger.head() is None:
        _adopt_first(ctx)
    while (head := ctx.ledger.head()) is not None and (theirs := dataset.manual_change(ctx.workspace)) is not None:
        _merge_manual_change(ctx, head, theirs)
    return ctx.ledger.head()


def advance(
    ctx: ProjectContext, files: Mapping[str, Path | None], *, period: str, cause: str, message: str
) -> DatasetVersion:
    """Make a version with *files* the newest; the newest one when it holds them already.

    *files* maps names below `data/` to files; None removes a name. Safe to repeat, and beside other runs.
    """
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
            print("Another run made a dataset version meanwhile: trying again from there.")
    git_commit = _update_pointer(ctx, made, message)
    ctx.ledger.record_dataset(made.hash, pointer=made.pointer, period=period, cause=cause, git_commit=git_commit)
    return made


def fetch_file(ctx: ProjectContext, name: str) -> Path:
    """Fetch the file *name* below `data/` of the newest version, and no other file. Raises DatasetError."""
    folder, _, rest = name.partition("/")
    return dataset.fetch_file(ctx.workspace, current(ctx).hash, name=f"{folder}/{rest}", remote=ctx.remote)


def _adopt_first(ctx: ProjectContext) -> None:
    """Make the version that `data.dvc` names the first, if its rows can be fetched; a clone may name one without."""
    home = next((root for root in (ctx.workspace, ctx.root) if (root / "data.dvc").exists()), None)
    if home is None or not (ctx.workspace / ".dvc").exists():
        return
    found = dataset.current(home)
    if not dataset.publish(ctx.workspace, found, remote=ctx.remote):
        print(f"data.dvc names {found.hash}, which is in no cache or remote: the dataset begins anew.")
        return
    if _move_head(ctx, found, expected=0, cause="found") and home == ctx.workspace:
        dataset.mark_as_ours(ctx.workspace, found)


def _merge_manual_change(ctx: ProjectContext, head: DatasetHead, theirs: DatasetVersion) -> None:
    """Merge a manual change of `data.dvc` (*theirs*) into the newest version.

    What differs from the last version that we wrote there is the change. Where several machines share a store, an
    older version in `data.dvc` is not a change for all of them: it is written over.
    """
    written = dataset.last_written(ctx.workspace)
    assert written is not None  # without it there is no manual change
    is_old = ctx.remote is not None and theirs.hash in {known.hash for known in ctx.ledger.heads()}
    if is_old:
        print(f"data.dvc names the older version {theirs.hash}; the newest, {head.hash}, counts.")
    else:
        changes = dataset.differences(ctx.workspace, written, theirs.hash, remote=ctx.remote)
        base = DatasetVersion(head.hash, head.pointer)
        made = next_version(ctx.workspace, base, changes, remote=ctx.remote)
        print(f"data.dvc was changed by hand: {', '.join(sorted(changes)) or 'nothing'} taken in as {made.hash}.")
        if made.hash != head.hash and not _move_head(ctx, made, expected=head.version, cause="by hand"):
            return  # another run was faster: the caller begins again from its version
    dataset.mark_as_ours(ctx.workspace, theirs)


def _move_head(ctx: ProjectContext, made: DatasetVersion, *, expected: int, cause: str) -> bool:
    """Make *made* the newest version; False when another version became it meanwhile."""
    try:
        ctx.ledger.move_head(made.hash, pointer=made.pointer, expected=expected, period="", cause=cause)
    except ConflictError:
        return False
    ctx.ledger.record_dataset(made.hash, pointer=made.pointer, period="", cause=cause)
    return True


def _update_pointer(ctx: ProjectContext, made: DatasetVersion, message: str) -> str | None:
    """Let `data.dvc` name the newest version and commit it if the settings say so; the commit, if it holds *made*."""

    def by_ledger() -> DatasetVersion:
        head = ctx.ledger.head()
        return DatasetVersion(head.hash, head.pointer) if head else made

    named = dataset.sync_pointer(ctx.workspace, by_ledger)
    if not ctx.settings.commit_data or ctx.workspace != ctx.root:
        return None
    commit = dataset.commit(ctx.root, message)
    return commit if named.hash == made.hash else None
