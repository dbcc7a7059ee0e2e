"""Where the rows of a period come from: a function of the project's, or files; objects of a bucket are the business
of `tasks.buckets`."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from trimtab.config.params import ParamsError
from trimtab.data.periods import Period


@dataclass(frozen=True)
class BucketAccess:
    """How to get to the source's buckets: the address of an S3 server of one's own, a profile of the AWS credentials
    file. Neither: Amazon's, with the credentials of the environment."""

    endpoint: str | None = None
    profile: str | None = None


class SourceError(RuntimeError):
    """The source did not give the rows of a period; nothing of it was kept."""


class SourceRejected(ValueError):
    """The source does not let us, and will not however often it is asked: a bucket that is not there, credentials."""


def in_bucket(target: str) -> bool:
    """Whether *target* names objects of a bucket."""
    return target.startswith("s3://")


def fetch(project: Path, target: str, period: Period, access: BucketAccess | None = None) -> pd.DataFrame:
    """The rows that *target* has for *period*; an empty frame when there are none.

    *target* is ``module:function``, looked for in the project's folder first and called with the period's start and
    end (UTC), or the path of a Parquet or CSV file, relative to the project, with ``{period}`` in its name; or objects
    of a bucket, to which *access* leads.
    Raises ParamsError when the target cannot be found, SourceError when it fails, SourceRejected when asking again is
    of no use.
    """
    if in_bucket(target):
        from tasks import buckets

        return buckets.read(target, period, access or BucketAccess())[0]
    if target.endswith((".parquet", ".csv")):
        return _read(project / target.replace("{period}", str(period)), period)
    module_name, _, function_name = target.partition(":")
    if str(project) not in sys.path:
        sys.path.insert(0, str(project))
    try:
        load = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError, SyntaxError) as error:
        raise ParamsError(f"source.target {target} cannot be found: {error}") from error
    import pyarrow

    pyarrow.enable_signal_handlers(False)  # its CSV reader takes Ctrl-C for itself, and now and then keeps it
    try:
        rows = load(period.start, period.end)
    except Exception as error:
        raise SourceError(f"{target} failed for {period}: {type(error).__name__}: {error}") from error
    if not isinstance(rows, pd.DataFrame):
        raise SourceError(f"{target} gave a {type(rows).__name__} for {period}; it has to give a pandas DataFrame")
    return rows


def _read(path: Path, period: Period) -> pd.DataFrame:
    if not path.exists():
        return pd.DataFrame()
    try:
        return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (OSError, ValueError) as error:  # pyarrow's and pandas' errors are both
        raise SourceError(f"{path} cannot be read for {period}: {error}") from error
