"""The pipeline makes from files what the flows make on servers: the same dataset, the same model."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from stores.ledger import Ledger
from stores.ledger.migrations import migrate
from stores.releases import bundle
from tasks import dataset
from tasks.pipeline.__main__ import main
from tasks.pipeline.canonical_model import canonicalize
from tests.operations.sample_project import plainly, project, rows
from tests.stores.seaweed import BUCKET, Seaweed
from trimtab.config import params as settings
from trimtab.data.schema import Schema
from trimtab.model import training
from trimtab.model.candidate import CANDIDATE_FILE, CandidateRecord
from trimtab.model.release import MODEL
from trimtab.model.scoring import Scorer

CHECKOUT = Path(__file__).resolve().parents[2]
FILES = (
    *(".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore", "data.dvc", "dvc.lock", "dvc.yaml"),
    *("params.yaml", "requirements.lock", "schema.yaml"),
)
CODE = ("sources", "stores", "tasks", "trimtab")


def copy_of_the_project(folder: Path) -> Path:
    """What a clone of the checkout has, as it is now, in a git of its own."""
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(CHECKOUT / name, folder / name)
    for name in CODE:
        shutil.copytree(CHECKOUT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "--quiet", "-m", "A copy")
    return folder


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def run(folder: Path, *command: str, **environment: str) -> str:
    """What *command* prints, in *folder*; always with two threads, unless *environment* says otherwise."""
    bin_ = Path(sys.executable).parent
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    env |= {"PATH": f"{bin_}:{os.environ['PATH']}", "OMP_NUM_THREADS": "2", "DVC_NO_ANALYTICS": "1", **environment}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def digests(folder: Path) -> dict[str, str]:
    """File → sha256, under *folder*."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh clone whose data was made from the source."""
    folder = copy_of_the_project(tmp_path_factory.mktemp("clone") / "project")
    run(folder, sys.executable, "-m", "tasks.pipeline", "data")
    return folder


@pytest.fixture(scope="module")
def reproduced(clone: Path) -> Path:
    """The clone after `dvc repro`, with the data as it was made."""
    run(clone, "dvc", "repro")
    return clone


def test_a_fresh_clone_gets_the_committed_hash_from_the_source(clone: Path) -> None:
    found, files = dataset.contents(clone)
    assert found == yaml.safe_load((CHECKOUT / "data.dvc").read_text())["outs"][0]["md5"]
    assert len(files) == 4
    assert git(clone, "status", "--porcelain", "--", "data.dvc") == ""


def test_after_dvc_repro_nothing_is_left_to_do_or_to_commit(reproduced: Path) -> None:
    assert "up to date" in run(reproduced, "dvc", "status")
    assert "roc_auc" in run(reproduced, "dvc", "metrics", "show")
    run(reproduced, "dvc", "plots", "show")
    made, committed = outputs((reproduced / "dvc.lock").read_text()), outputs(git(reproduced, "show", "HEAD:dvc.lock"))
    assert made == committed, "the code now makes other files than dvc.lock names: run `dvc repro` and commit dvc.lock"
    assert git(reproduced, "status", "--porcelain", "--", ".", ":!dvc.lock") == ""


def outputs(lock: str) -> dict[str, str]:
    """Path → md5 of what the stages made."""
    return {out["path"]: out["md5"] for stage in yaml.safe_load(lock)["stages"].values() for out in stage["outs"]}


def test_the_model_does_not_depend_on_how_many_threads_made_it(reproduced: Path) -> None:
    """The stage in a process with one thread gives the bytes that it gave with two: model, reference, samples."""
    made = digests(reproduced / "model")
    shutil.rmtree(reproduced / "model")
    run(reproduced, sys.executable, "-m", "tasks.pipeline", "train", OMP_NUM_THREADS="1")
    assert digests(reproduced / "model") == made


def test_the_train_flow_and_the_pipeline_make_the_same_model(
    reproduced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Apart from commits, the flow's candidate is the pipeline's: digest, numbers, files, every prediction."""
    from operations.training import make_candidate
    from tasks import tracking

    monkeypatch.chdir(tmp_path)  # where MLflow puts artifacts when it has no server
    version, params = dataset.current(reproduced), settings.load(reproduced)
    needed = {"project", "source", "columns", "period", "train", "gate"}
    address = f"sqlite:///{tmp_path}/mlflow.db"
    run_id = make_candidate.fn(
        project=reproduced, tracking_uri=address, version=version.hash, as_of=params.period.first_train,
        settings=params.model_dump(mode="json", by_alias=True, include=needed),
        schema=(reproduced / "schema.yaml").read_text(), code="any", pointer=version.pointer,
        workspace=reproduced, remote=None,
    )  # fmt: skip
    flow = tracking.fetch_candidate(address, run_id, cache=tmp_path / "cache")
    ours = CandidateRecord.model_validate_json((reproduced / "model" / CANDIDATE_FILE).read_bytes())

    assert ours.model_digest == flow.record.model_digest
    assert ours.model_copy(update={"lineage": {}}) == flow.record.model_copy(update={"lineage": {}})
    assert ours.lineage.items() <= flow.record.lineage.items()
    theirs = {path.name: path.read_bytes() for path in flow.folder.iterdir() if path.name != CANDIDATE_FILE}
    theirs[MODEL] = canonicalize(theirs[MODEL])
    assert theirs == {p.name: p.read_bytes() for p in (reproduced / "model").iterdir() if p.name != CANDIDATE_FILE}
    np.testing.assert_array_equal(predictions(reproduced / "model", reproduced), predictions(flow.folder, reproduced))


def predictions(model: Path, project: Path) -> np.ndarray[Any, Any]:
    """What the candidate in the folder *model* says of every accepted row."""
    record = CandidateRecord.model_validate_json((model / CANDIDATE_FILE).read_bytes())
    loaded = bundle.load_model((model / MODEL).read_bytes(), digest=record.model_digest, trusted=record.trusted_types)
    scorer = Scorer(loaded, task=record.task, features=record.features, classes=record.classes)
    return scorer.score(dataset.read(project, record.dataset)).prediction


def test_the_ingest_and_validate_flows_lay_out_the_same_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The flows' own bodies with a real ledger and DVC; only Prefect's server and Evidently's pages are left out."""
    for name in ("params.yaml", "schema.yaml"):
        shutil.copy2(CHECKOUT / name, tmp_path / name)
    git(tmp_path, "init", "--quiet")
    address = f"sqlite:///{tmp_path}/ledger.db"
    migrate(Ledger(address))
    monkeypatch.setenv("TRIMTAB_LEDGER_URL", address)
    monkeypatch.setenv("TRIMTAB_PROJECT", str(tmp_path))
    ingest, validate, _ = plainly(monkeypatch.setattr)
    for period in ("2013-01", "2013-02"):
        digest = ingest.ingest.fn(period, and_validate=False)
        assert validate.validate.fn(period, digest)
    assert dataset.current(tmp_path).hash == yaml.safe_load((CHECKOUT / "data.dvc").read_text())["outs"][0]["md5"]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A small project of another source, with rows for three months, of which two make the first dataset."""
    project(tmp_path, "2013-01", "2013-02", "2013-03")
    git(tmp_path, "init", "--quiet")
    return tmp_path


def stage(name: str, project: Path) -> int:
    return main([name, "--project", str(project)])


def test_making_the_data_again_changes_nothing(tiny: Path) -> None:
    assert stage("data", tiny) == 0
    before, pointer = digests(tiny / "data"), (tiny / "data.dvc").read_bytes()
    assert len(before) == 4
    assert stage("data", tiny) == 0
    assert digests(tiny / "data") == before
    assert (tiny / "data.dvc").read_bytes() == pointer


def test_rows_from_a_bucket_come_from_the_server_that_the_settings_name(
    tiny: Path, seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = f"first-{tiny.name}"
    for period in ("2013-01", "2013-02"):
        content = (tiny / "rows" / f"{period}.csv").read_bytes()
        seaweed.client.put_object(Bucket=BUCKET, Key=f"{folder}/{period}.csv", Body=content)
    project(tiny, target=f"s3://{BUCKET}/{folder}/{{period}}.csv")
    monkeypatch.setenv("TRIMTAB_SOURCE_ENDPOINT", "seaweed:8333")
    with pytest.raises(SystemExit):
        stage("data", tiny)
    assert "seaweed:8333 is no address" in capsys.readouterr().err
    monkeypatch.setenv("TRIMTAB_SOURCE_ENDPOINT", seaweed.endpoint)
    monkeypatch.setenv("TRIMTAB_SOURCE_PROFILE", "nobodys")
    assert stage("data", tiny) == 1
    assert "nobodys" in capsys.readouterr().err
    monkeypatch.delenv("TRIMTAB_SOURCE_PROFILE")
    assert stage("data", tiny) == 0
    assert len(digests(tiny / "data")) == 4


def test_rows_that_the_source_has_changed_are_named_and_not_versioned(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stage("data", tiny) == 0
    pointer = (tiny / "data.dvc").read_bytes()
    rows("2013-02", x={3: 2.5}).to_csv(tiny / "rows" / "2013-02.csv", index=False)
    assert stage("data", tiny) == 1
    said = capsys.readouterr().err
    assert "with other content: data/accepted/2013-02.parquet" in said
    assert "not in that version: data/landed/2013-02/" in said
    assert "2013-01" not in said
    assert (tiny / "data.dvc").read_bytes() == pointer


def test_where_packages_are_not_as_locked_the_error_names_them(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first_data = import_module("tasks.pipeline.initial_dataset")
    assert stage("data", tiny) == 0
    (tmp_path / "requirements.lock").write_text("pandas==0.1 \\\n    --hash=sha256:00\n")
    monkeypatch.setattr(first_data, "CODE", tmp_path)
    rows("2013-02", x={3: 2.5}).to_csv(tiny / "rows" / "2013-02.csv", index=False)
    assert stage("data", tiny) == 1
    assert f"pandas {pd.__version__} (locked: 0.1)" in capsys.readouterr().err


def test_a_batch_that_breaks_the_schema_makes_no_dataset(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows("2013-02", x=dict.fromkeys(range(100), 99)).to_csv(tiny / "rows" / "2013-02.csv", index=False)
    assert stage("data", tiny) == 1
    assert "2013-02" in (said := capsys.readouterr().err)
    assert "x: outside -10 to 10" in said
    assert not (tiny / "data.dvc").exists()


def test_training_does_not_begin_on_rows_that_a_tightened_schema_forbids(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stage("data", tiny) == 0
    assert stage("validate", tiny) == 0
    schema = tiny / "schema.yaml"
    schema.write_text(schema.read_text().replace("max: 10.0", "max: 1.0"))
    assert stage("validate", tiny) == 1
    assert "x: outside -10 to 1" in capsys.readouterr().err


def test_a_stage_without_data_says_what_to_run(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert stage("train", tiny) == 1
    assert "python -m tasks.pipeline data" in capsys.readouterr().err


def test_a_stable_file_is_the_same_model_and_has_the_same_bytes_for_every_refit(tiny: Path) -> None:
    """While skops' own files of two equal models differ."""
    from io import BytesIO

    from trimtab.model.release import model_digest

    params, rules = settings.load(tiny), Schema.loads((tiny / "schema.yaml").read_text())
    table = pd.concat([rows("2013-01"), rows("2013-02")], ignore_index=True)
    parts = training.split(table, params, params.first_train)
    one, two = (training.fit_candidate(params, rules, parts, tiny).content for _ in range(2))
    assert one != two
    assert canonicalize(one) == canonicalize(two)
    assert model_digest(BytesIO(canonicalize(one))) == model_digest(BytesIO(one))
