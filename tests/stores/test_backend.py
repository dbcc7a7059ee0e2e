"""The way that a model is asked: proved at registration, recorded, followed at load, and left when it does not hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import skops.io
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline

from stores.releases import backend
from stores.releases import bundle as bundle_module
from stores.releases.backend import load_scorer
from stores.releases.bundle import Bundle, CorruptRelease, open_bundle
from tests.serving.sample_project import flights, tiny_bundle, tiny_pipeline
from trimtab.data.features import describe, frame
from trimtab.model.equivalence import TOLERANCE
from trimtab.model.release import BACKEND, MODEL, REFERENCE
from trimtab.predictors.compile import Predictor, compile_pipeline
from trimtab.requests.parser import RowParser


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("releases"))


def recorded(bundle: Bundle) -> bytes:
    """backend.json as registering makes it."""
    return backend.backend_file(
        model=bundle.read(MODEL), reference=bundle.read(REFERENCE), fields=bundle.manifest.model_dump(exclude={"files"})
    )


def with_record(bundle: Bundle, folder: Path, record: bytes, **files: bytes) -> Bundle:
    """The same release with a record of its way."""
    fields = bundle.manifest.model_dump(exclude={"files"})
    kept = {name: bundle.read(name) for name in bundle.manifest.files}
    return bundle_module.write_bundle(folder, manifest_fields=fields, files={**kept, **files, BACKEND: record})


def wrong(model: Any, features: Any) -> Predictor:
    """A fast way that is off by a millionth."""
    way = compile_pipeline(model, features)
    right = way.predict
    way.predict = lambda columns, size: right(columns, size) + 1e-6  # type: ignore[method-assign]
    return way


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_a_registered_release_is_asked_the_way_that_was_proved(tmp_path: Path, task: Any) -> None:
    plain = tiny_bundle(tmp_path, task=task)
    record = recorded(plain)
    found = json.loads(record)
    assert (found["backend"], found["tolerance"], found["rows"]) == ("tables", TOLERANCE, 400)
    assert found["worst_difference"] <= TOLERANCE
    bundle = with_record(plain, tmp_path, record)
    scorer = load_scorer(bundle)
    assert (scorer.backend, scorer.reason) == ("tables", "gives the answers of scikit-learn")
    rows, answers = bundle.samples
    understood = RowParser(bundle.manifest.features, bundle.manifest.columns).read(rows, now_us=0)
    for one, other in zip(scorer.score_rows(understood).answers(), answers, strict=True):
        assert one.get("label") == other.get("label")
        numbers = [k for k in one if k != "label"]
        assert [one[k] for k in numbers] == [pytest.approx(other[k], abs=TOLERANCE) for k in numbers]


def test_the_record_is_the_same_for_an_equal_model(made: Bundle, tmp_path: Path) -> None:
    """Another fit, saved to other bytes, must not make another release because of its record."""
    other = tiny_bundle(tmp_path)
    assert other.read(MODEL) != made.read(MODEL)
    assert recorded(made) == recorded(made) == recorded(other)


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (b'{"backend": "scikit-learn", "reason": "somebody said so"}', "somebody said so"),
        (b'{"backend": "linear", "reason": "a mistake"}', "says linear, found was tables"),
        (b'{"backend": "tables"}', "cannot be read"),
        (b'{"backend": "tables", "reason": "", "worst": 0}', "cannot be read"),
        (b"\xff", "cannot be read"),
        (b"", "cannot be read"),
    ],
    ids=["scikit-learn", "another way", "incomplete", "a key too many", "no text", "empty"],
)
def test_only_a_record_that_holds_is_followed(made: Bundle, tmp_path: Path, record: bytes, why: str) -> None:
    scorer = load_scorer(with_record(made, tmp_path, record))
    assert scorer.backend == "scikit-learn"
    assert why in scorer.reason


def test_a_record_with_a_byte_changed_is_a_damaged_release(made: Bundle, tmp_path: Path) -> None:
    bundle = with_record(made, tmp_path, b'{"backend": "scikit-learn", "reason": ""}')
    (bundle.path / BACKEND).write_bytes(b'{"backend": "tables", "reason": ""}')
    with pytest.raises(CorruptRelease, match=BACKEND):
        open_bundle(tmp_path, bundle.digest)


def test_a_way_that_no_longer_agrees_is_left_at_load(
    made: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an upgrade that changed what the model's insides mean."""
    bundle = with_record(made, tmp_path, recorded(made))
    monkeypatch.setattr(backend, "compile_pipeline", wrong)
    scorer = load_scorer(bundle)
    assert scorer.backend == "scikit-learn"
    assert "says tables" in scorer.reason
    assert "differs from scikit-learn" in scorer.reason


def test_a_way_that_differs_is_refused_at_registration(made: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "compile_pipeline", wrong)
    found = backend.BackendRecord.model_validate_json(recorded(made))
    assert (found.backend, found.reason) == ("scikit-learn", "tables differs from scikit-learn")
    assert found.worst_difference is not None
    assert found.worst_difference > TOLERANCE


def test_a_model_without_a_fast_way_is_served_by_scikit_learn(made: Bundle, tmp_path: Path) -> None:
    rows = flights()
    features = describe(rows, number=["distance", "hour"], category=["carrier"])
    bayes = make_pipeline(tiny_pipeline()[0], GaussianNB())
    bayes.fit(frame(rows.dropna(), features), rows.dropna()["late"])
    model = skops.io.dumps(bayes)
    record = backend.backend_file(
        model=model,
        reference=made.read(REFERENCE),
        fields=made.manifest.model_dump() | {"trusted_types": skops.io.get_untrusted_types(data=model)},
    )
    assert "GaussianNB" in json.loads(record)["reason"]
    assert load_scorer(with_record(made, tmp_path, record, **{MODEL: model})).backend == "scikit-learn"
