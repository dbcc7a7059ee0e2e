"""DVC: versions of `data/`, reading any version by its hash, and making the next one. The ledger decides which is the
newest (`operations.datasets`).

The only package that imports DVC. Files are read from DVC's cache, where content never changes, so that training is not
disturbed by an ingest."""

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
