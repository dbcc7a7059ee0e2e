"""Bundles: whole or absent, and never loaded with a byte changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import skops.io
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from stores.releases import bundle as bundle_module
from stores.releases.backend import load_scorer
from stores.releases.bundle import ALLOWED_TYPES, CorruptRelease, UnknownRelease, UntrustedRelease, open_bundle
from tests.serving.sample_project import flights, tiny_bundle
from trimtab.model.release import REQUIRED_FILES

FILES = sorted({*REQUIRED_FILES, bundle_module.MANIFEST})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> bundle_module.Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("releases"))


def copy(bundle: bundle_module.Bundle, folder: Path) -> Path:
    target = folder / bundle.digest
    target.mkdir(parents=True)
    for name in FILES:
        (target / name).write_bytes((bundle.path / name).read_bytes())
    return target


def test_a_bundle_answers_as_its_samples_say(made: bundle_module.Bundle) -> None:
    bundle = open_bundle(made.path.parent, made.digest)
    rows, recorded = bundle.samples
    assert load_scorer(bundle).score(rows).answers() == recorded
    assert set(bundle.reference().columns) == {"distance", "hour", "carrier", "prediction"}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_every_file_is_covered_by_the_digest(
    made: bundle_module.Bundle, tmp_path: Path, name: str, damage: str
) -> None:
    file = copy(made, tmp_path) / name
    content = file.read_bytes()
    match damage:
        case "flip":
            file.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
        case "cut":
            file.write_bytes(content[:-1])
        case "remove":
            file.unlink()
    with pytest.raises(CorruptRelease, match=name) as caught:
        open_bundle(tmp_path, made.digest)
    assert (caught.value.file, caught.value.digest) == (name, made.digest)


def test_a_file_that_changes_after_the_check_is_still_refused(made: bundle_module.Bundle, tmp_path: Path) -> None:
    model = copy(made, tmp_path) / "model.skops"
    bundle = open_bundle(tmp_path, made.digest)
    model.write_bytes(model.read_bytes() + b"x")
    with pytest.raises(CorruptRelease):
        bundle.model()


@pytest.mark.parametrize("digest", ["f" * 64, "../secrets", "", "F" * 64], ids=["absent", "path", "empty", "capitals"])
def test_what_is_no_release_is_unknown(made: bundle_module.Bundle, digest: str) -> None:
    with pytest.raises(UnknownRelease):
        open_bundle(made.path.parent, digest)


def test_writing_the_same_release_again_changes_nothing(made: bundle_module.Bundle) -> None:
    before = sorted((p.name, p.stat().st_mtime_ns) for p in made.path.iterdir())
    assert again(made).digest == made.digest
    assert sorted((p.name, p.stat().st_mtime_ns) for p in made.path.iterdir()) == before


def again(bundle: bundle_module.Bundle) -> bundle_module.Bundle:
    fields = bundle.manifest.model_dump(exclude={"files"})
    files = {name: bundle.path / name for name in bundle.manifest.files}
    return bundle_module.write_bundle(bundle.path.parent, manifest_fields=fields, files=files)


def test_a_damaged_bundle_is_replaced_when_it_is_written_again(made: bundle_module.Bundle, tmp_path: Path) -> None:
    folder = copy(made, tmp_path)
    (folder / "card.md").write_bytes(b"else")
    fields = made.manifest.model_dump(exclude={"files"})
    files = {name: made.path / name for name in made.manifest.files}
    assert bundle_module.write_bundle(tmp_path, manifest_fields=fields, files=files).digest == made.digest
    assert open_bundle(tmp_path, made.digest).read("card.md") == made.read("card.md")


def test_a_write_that_dies_leaves_no_release(
    made: bundle_module.Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", die)
    fields = made.manifest.model_dump(exclude={"files"})
    with pytest.raises(KeyboardInterrupt):
        bundle_module.write_bundle(
            tmp_path, manifest_fields=fields, files={n: made.path / n for n in made.manifest.files}
        )
    assert os.listdir(tmp_path) == []


def test_a_model_with_foreign_code_is_never_loaded(made: bundle_module.Bundle, tmp_path: Path) -> None:
    """Even a manifest that vouches for it does not help: the allow-list is ours."""
    model = skops.io.dumps(make_pipeline(FunctionTransformer(os.system)))
    needed = skops.io.get_untrusted_types(data=model)
    assert needed
    fields = made.manifest.model_dump(exclude={"files"}) | {"trusted_types": [*ALLOWED_TYPES, *needed]}
    files: dict[str, bytes | Path] = {name: made.path / name for name in made.manifest.files}
    bundle = bundle_module.write_bundle(tmp_path, manifest_fields=fields, files={**files, "model.skops": model})
    with pytest.raises(UntrustedRelease) as caught:
        bundle.model()
    assert caught.value.types == tuple(sorted(needed))
    assert bundle.model(allow=needed) is not None


def test_types_that_the_manifest_does_not_name_are_not_trusted(made: bundle_module.Bundle, tmp_path: Path) -> None:
    fields = made.manifest.model_dump(exclude={"files"}) | {"trusted_types": []}
    files = {name: made.path / name for name in made.manifest.files}
    with pytest.raises(UntrustedRelease):
        bundle_module.write_bundle(tmp_path, manifest_fields=fields, files=files).model()


@pytest.mark.parametrize("task", ["regression", "multiclass"])
def test_other_tasks_answer_in_their_own_way(tmp_path: Path, task: str) -> None:
    bundle = tiny_bundle(tmp_path, task=task)  # type: ignore[arg-type]
    answers = load_scorer(bundle).score(flights().head(3)).answers()
    if task == "regression":
        assert [set(a) for a in answers] == [{"value"}] * 3
    else:
        assert all(a["label"] == max(a["probabilities"], key=a["probabilities"].get) for a in answers)
        assert all(sum(a["probabilities"].values()) == pytest.approx(1) for a in answers)
