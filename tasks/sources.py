"""Reads the rows of a period from the project's source: a Python function or files. `tasks.buckets` reads buckets."""

from __future__ import annotations

import contextlib
import importlib
import sys
from pathlib import Path

import pandas as pd

from tasks.source_access import BucketAccess, SourceError, SourceRejected
from tasks.table_files import read_table
from trimtab.config.params import Params, ParamsError
from trimtab.data.periods import Period

# Faults of the source's own code: a retry meets them again.
_MISTAKES = (TypeError, NameError, AttributeError, ImportError, SyntaxError)


def is_bucket_target(target: str) -> bool:
    """Whether *target* names objects of a bucket."""
    return target.startswith("s3://")


def fetch(project: Path, params: Params, period: Period, access: BucketAccess | None = None) -> pd.DataFrame:
    """Return the rows of *period* that the source of *params* has; an empty frame when there are none.

    `source.target` is one of: ``module:function``, imported from the project's folder first and called with the
    period's start and end (UTC); the path of a Parquet or CSV file relative to the project, with ``{period}``
    in its name; or ``s3://…`` objects, read with *access*.

    Raises ParamsError when the target does not exist, SourceError when reading fails, SourceRejected when a retry
    cannot help.
    """
    target = params.source.target
    if is_bucket_target(target):
        from tasks import buckets

        return buckets.read(params, period, access or BucketAccess())[0]
    if target.endswith((".parquet", ".csv")):
        path = project / target.replace("{period}", str(period))
        return read_table(path, str(path), params, period) if path.exists() else pd.DataFrame()
    module_name, _, function_name = target.partition(":")
    if str(project) not in sys.path:
        sys.path.insert(0, str(project))
    try:
        with contextlib.chdir(project):
            load = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError, SyntaxError) as error:
        raise ParamsError(f"source.target {target} cannot be found: {error}") from error
    import pyarrow

    pyarrow.enable_signal_handlers(False)  # its CSV reader catches Ctrl-C and sometimes drops it
    try:
        with contextlib.chdir(project):  # where read_csv("rows.csv") finds the project's file
            rows = load(period.start, period.end)
    except _MISTAKES as error:
        raise SourceRejected(f"{target} has a mistake ({period}): {type(error).__name__}: {error}") from error
    except Exception as error:
        raise SourceError(f"{target} failed for {period}: {type(error).__name__}: {error}") from error
    if not isinstance(rows, pd.DataFrame):
        raise SourceError(f"{target} gave a {type(rows).__name__} for {period}; it has to give a pandas DataFrame")
    return rows
