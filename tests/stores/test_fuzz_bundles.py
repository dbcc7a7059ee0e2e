"""Whatever a release's files hold, opening and loading it gives a model or a ReleaseError."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from stores.releases.bundle import MANIFEST, ReleaseError, load_model, open_bundle
from tests.fuzzing import damaged, outcomes
from tests.serving.sample_project import tiny_bundle
from trimtab.model.release import MODEL


@pytest.mark.timeout(3600)
def test_a_model_file_is_a_model_or_a_release_error(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path)
    trusted = bundle.manifest.trusted_types

    def load(content: bytes) -> object:
        return load_model(content, digest=bundle.digest, trusted=trusted)

    read, refused = outcomes(damaged([bundle.read(MODEL)]), load, (ReleaseError,))
    assert read and refused


@pytest.mark.timeout(3600)
def test_a_manifest_is_a_manifest_or_a_release_error(tmp_path: Path) -> None:
    """Under the digest of what it holds, as if a registry had been written to by hand."""
    bundle = tiny_bundle(tmp_path)
    whole = bundle.path.joinpath(MANIFEST).read_bytes()

    def opened(content: bytes) -> None:
        digest = hashlib.sha256(content).hexdigest()
        folder = tmp_path / digest
        if content == whole:
            assert open_bundle(tmp_path, digest).manifest == bundle.manifest
            return
        shutil.copytree(bundle.path, folder)
        (folder / MANIFEST).write_bytes(content)
        try:
            open_bundle(tmp_path, digest)
        finally:
            shutil.rmtree(folder)

    read, refused = outcomes(damaged([whole]), opened, (ReleaseError,))
    assert read and refused
