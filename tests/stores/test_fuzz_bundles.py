"""Whatever a release's files hold, opening and loading it gives a model or a ReleaseError."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from stores.releases.bundle import MANIFEST, ReleaseError, load_model, open_bundle
from tests.fuzzing import damaged, explain
from tests.serving.sample_project import tiny_bundle
from trimtab.model.release import MODEL


@pytest.mark.timeout(3600)
def test_a_model_file_is_a_model_or_a_release_error(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path)
    trusted = bundle.manifest.trusted_types
    for number, content in damaged([bundle.read(MODEL)]):
        try:
            load_model(content, digest=bundle.digest, trusted=trusted)
        except ReleaseError:
            pass
        except BaseException as error:  # noqa: BLE001 - this is what is looked for
            pytest.fail(explain(number, content, error))


@pytest.mark.timeout(3600)
def test_a_manifest_is_a_manifest_or_a_release_error(tmp_path: Path) -> None:
    """Under the digest of what it holds, as if a registry had been written to by hand."""
    bundle = tiny_bundle(tmp_path)
    for number, content in damaged([bundle.path.joinpath(MANIFEST).read_bytes()]):
        digest = hashlib.sha256(content).hexdigest()
        folder = tmp_path / digest
        if folder.exists():
            continue
        shutil.copytree(bundle.path, folder)
        (folder / MANIFEST).write_bytes(content)
        try:
            open_bundle(tmp_path, digest)
        except ReleaseError:
            pass
        except BaseException as error:  # noqa: BLE001 - this is what is looked for
            pytest.fail(explain(number, content, error))
        finally:
            shutil.rmtree(folder)
    assert json.loads((bundle.path / MANIFEST).read_text())
