"""DVC: versions of `data/`, reading any of them by its hash, and making the next. Which version is the newest is the
ledger's to say (`operations.datasets`).

The only package that knows DVC. Readers take files straight out of DVC's cache, where content never changes, so a flow
that trains is not disturbed by another that ingests."""

from tasks.dataset.next_version import (
    differences,
    extend,
    last_written,
    manual_change,
    mark_as_ours,
    publish,
    sync_pointer,
)
from tasks.dataset.reading import contents, current, fetch_file, listing, names, paths, read
from tasks.dataset.repository import DatasetError, DatasetVersion, NoRows, Remote, Unavailable, init
from tasks.dataset.saving import commit, save

__all__ = [
    "DatasetError",
    "DatasetVersion",
    "NoRows",
    "Remote",
    "Unavailable",
    "commit",
    "contents",
    "current",
    "differences",
    "extend",
    "fetch_file",
    "init",
    "last_written",
    "listing",
    "manual_change",
    "mark_as_ours",
    "names",
    "paths",
    "publish",
    "read",
    "save",
    "sync_pointer",
]
