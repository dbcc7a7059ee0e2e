"""Release bundles on disk: one folder per digest, written as a whole or not at all, and read only after every file's
digest was checked."""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from stores.atomic_files import sweep, sync_folder, write_durably
from trimtab.model.release import MODEL, REFERENCE, SAMPLES, Manifest, is_digest

if TYPE_CHECKING:
    import pandas as pd


MANIFEST = "manifest.json"

# What scikit-learn's own models are made of beyond skops' list (found by saving every estimator of the pinned version).
# A manifest can only choose from these, never add to them.
ALLOWED_TYPES = frozenset(
    {
        "functools.partial",
        "numpy.dtype",
        "sklearn._loss.loss.HalfTweedieLossIdentity",
        "sklearn.calibration._CalibratedClassifier",
        "sklearn.calibration._SigmoidCalibration",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.metrics._dist_metrics.EuclideanDistance64",
        "sklearn.neighbors._kd_tree.KDTree",
        "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
        "sklearn.tree._tree.Tree",
        "sklearn.utils.validation.check_array",
    }
)


class ReleaseError(Exception):
    """Something is wrong with one release."""

    def __init__(self, digest: str, problem: str) -> None:
        super().__init__(f"release {digest[:12]}: {problem}")
        self.digest, self.problem = digest, problem


class UnknownRelease(ReleaseError):
    """There is no bundle of that digest."""


class CorruptRelease(ReleaseError):
    """A bundle's file is not the one its digest names, so nothing of it may be loaded."""

    def __init__(self, digest: str, file: str, problem: str) -> None:
        super().__init__(digest, f"{file}: {problem}")
        self.file = file


class UnreachableRelease(ReleaseError):
    """The bundle may exist in the object store, which is unavailable. This is no evidence against the release."""


class UntrustedRelease(ReleaseError):
    """The model contains types that may run code when loaded, and they are not on the list of trusted types."""

    def __init__(self, digest: str, types: Collection[str]) -> None:
        super().__init__(digest, f"the model needs types that are not trusted: {', '.join(sorted(types))}")
        self.types = tuple(sorted(types))


@dataclass(frozen=True)
class Bundle:
    """A bundle whose every file has been checked."""

    path: Path
    digest: str
    manifest: Manifest

    def read(self, name: str) -> bytes:
        """Return a file's content, its digest checked again, so that what is used is what was verified."""
        return _checked(self.path, self.digest, name, self.manifest.files[name])

    def model(self, *, allow: Collection[str] = ()) -> Any:
        """Load the model. Raises UntrustedRelease, before anything is loaded, for a type that is not in the manifest or
        is neither in `ALLOWED_TYPES` nor in *allow* (a project's own types)."""
        return load_model(self.read(MODEL), digest=self.digest, trusted=self.manifest.trusted_types, allow=allow)

    @cached_property
    def samples(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Some rows, and what the model answered to each when it was registered."""
        content = json.loads(self.read(SAMPLES))
        return content["rows"], content["predictions"]

    def reference(self) -> pd.DataFrame:
        """The reference profile: rows with their features, prediction and target."""
        import pandas as pd

        return pd.read_parquet(BytesIO(self.read(REFERENCE)))


def load_model(content: bytes, *, digest: str, trusted: Collection[str], allow: Collection[str] = ()) -> Any:
    """Load the model from a skops file. Raises UntrustedRelease, before anything is loaded, for a type that is not in
    *trusted* or is neither in `ALLOWED_TYPES` nor in *allow*, and CorruptRelease when the file cannot be read."""
    import skops.io

    vouched = set(trusted) & (ALLOWED_TYPES | set(allow))
    try:
        found = set(skops.io.get_untrusted_types(data=content))
        if refused := found - vouched:
            raise UntrustedRelease(digest, refused)
        return skops.io.loads(content, trusted=sorted(found))
    except ReleaseError:
        raise
    except Exception as error:  # skops, zipfile, json and numpy raise many types on a damaged file
        raise CorruptRelease(digest, MODEL, f"cannot be loaded: {type(error).__name__}: {error}") from error


def write_bundle(releases: Path, *, manifest_fields: Mapping[str, Any], files: Mapping[str, bytes | Path]) -> Bundle:
    """Write the bundle of *files*; *manifest_fields* is the manifest without ``files``.

    Safe to repeat: equal content has the same digest, and an existing folder is checked and kept. A damaged one is
    quarantined and replaced. A crash leaves at most a hidden scratch folder.
    """
    contents = {name: f if isinstance(f, bytes) else f.read_bytes() for name, f in files.items()}
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    manifest = Manifest.model_validate({**manifest_fields, "files": digests})
    digest, target = manifest.digest, releases / manifest.digest
    try:
        return open_bundle(releases, digest)
    except UnknownRelease:
        pass
    except CorruptRelease:
        quarantine_bundle(releases, digest)
    releases.mkdir(parents=True, exist_ok=True)
    sweep(releases, ".new-*")
    scratch = releases / f".new-{uuid.uuid4().hex}"
    scratch.mkdir()
    try:
        for name, content in {**contents, MANIFEST: manifest.canonical()}.items():
            write_durably(scratch / name, content)
        sync_folder(scratch)
        try:
            scratch.rename(target)
        except OSError:
            if not target.is_dir():
                raise
        sync_folder(releases)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return open_bundle(releases, digest)


def open_bundle(releases: Path, digest: str) -> Bundle:
    """Open the bundle *digest* after checking the digest of every file.

    Raises UnknownRelease when there is none, and CorruptRelease, which names the file, when a digest differs.
    """
    path = releases / digest
    if not is_digest(digest) or not path.is_dir():
        raise UnknownRelease(digest, f"no bundle in {releases}")
    content = _checked(path, digest, MANIFEST, digest)
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        raise CorruptRelease(digest, MANIFEST, f"not a manifest this version can read: {error}") from error
    for name, expected in manifest.files.items():
        _checked(path, digest, name, expected)
    return Bundle(path, digest, manifest)


def _checked(path: Path, digest: str, name: str, expected: str) -> bytes:
    try:
        content = (path / name).read_bytes()
    except FileNotFoundError as error:
        raise CorruptRelease(digest, name, "missing") from error
    except OSError as error:
        raise CorruptRelease(digest, name, f"cannot be read: {error.strerror}") from error
    actual = hashlib.sha256(content).hexdigest()
    if actual != expected:
        raise CorruptRelease(digest, name, f"sha256 is {actual[:12]}…, expected {expected[:12]}…")
    return content


def quarantine_bundle(releases: Path, digest: str) -> None:
    """Rename a damaged folder so that it can be inspected. Another process may have done so already."""
    with suppress(FileNotFoundError):
        (releases / digest).rename(releases / f".damaged-{digest[:12]}-{uuid.uuid4().hex[:8]}")
