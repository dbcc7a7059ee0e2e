"""DVC: versions of `data/`, reading any of them by its hash, and making the next. Which version is the newest is the
ledger's to say (`operations.datasets`).

The only package that knows DVC. Readers take files straight out of DVC's cache, where content never changes, so a flow
that trains is not disturbed by another that ingests."""

from tasks.dataset.next_version import (
    by_hand,
    differences,
    extend,
    last_written,
    publish,
    sync_pointer,
    take_for_ours,
)
from tasks.dataset.reading import contents, current, listing, names, one, paths, read
from tasks.dataset.repository import DatasetError, DatasetVersion, NoRows, Remote, Unavailable, init
from tasks.dataset.saving import commit, save

__all__ = [
    "DatasetError",
    "DatasetVersion",
    "NoRows",
    "Remote",
    "Unavailable",
    "by_hand",
    "commit",
    "contents",
    "current",
    "differences",
    "extend",
    "init",
    "last_written",
    "listing",
    "names",
    "one",
    "paths",
    "publish",
    "read",
    "save",
    "sync_pointer",
    "take_for_ours",
]
