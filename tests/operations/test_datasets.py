"""The dataset's versions, made by flow runs that hold none of the data: several at once, some of which are killed; and
beside a person who works on `data/` with DVC."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from operations import datasets
from operations.context import ProjectContext, load_context
from stores.ledger import Ledger
from stores.ledger.migrations import migrate
from tasks import dataset
from tasks.dataset import DatasetError, DatasetVersion
from tasks.dataset.repository import open_repository
from tests.conftest import CODE
from tests.operations import sample_project
from tests.stores.conftest import postgres
from tests.stores.proxy import proxied
from tests.stores.seaweed import Seaweed, credentials, seaweed
from trimtab.config.settings import Settings

__all__ = ["postgres", "seaweed"]


@pytest.fixture
def ctx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProjectContext:
    """A laptop: a project with rows for three months, no store."""
    sample_project.project(tmp_path / "laptop", "2013-01", "2013-02", "2013-03")
    git(tmp_path / "laptop", "init", "--quiet")
    address = f"sqlite:///{tmp_path}/ledger.db"
    migrate(Ledger(address))
    monkeypatch.setenv("TRIMTAB_LEDGER_URL", address)
    monkeypatch.setenv("TRIMTAB_PROJECT", str(tmp_path / "laptop"))
    sample_project.plainly(monkeypatch.setattr)
    return load_context()


def git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True).stdout


def dvc(folder: Path, *words: str) -> str:
    """DVC as a person uses it."""
    env = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    command = [sys.executable, "-m", "dvc", *words]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def ingest(*periods: str) -> None:
    module = sample_project.plainly()[0]
    for period in periods:
        module.ingest.fn(period)


def files(ctx: ProjectContext, version: str | None = None) -> dict[str, str]:
    found = dataset.listing(ctx.workspace, version or datasets.current(ctx).hash, remote=ctx.remote)
    assert found is not None
    return found


# -- a laptop


def test_after_each_period_data_dvc_is_what_dvc_itself_would_have_written(ctx: ProjectContext) -> None:
    ingest("2013-01", "2013-02")
    ours = (ctx.root / "data.dvc").read_text()
    assert "up to date" in dvc(ctx.root, "status")
    dvc(ctx.root, "add", "data")
    assert (ctx.root / "data.dvc").read_text() == ours
    head = ctx.ledger.head()
    assert head is not None
    assert (head.version, head.hash) == (4, dataset.current(ctx.root).hash)


def test_a_clone_gets_the_data_by_dvc_pull(ctx: ProjectContext, tmp_path: Path) -> None:
    ingest("2013-01")
    sample_project.project(tmp_path / "clone")
    git(tmp_path / "clone", "init", "--quiet")
    dataset.init(tmp_path / "clone")
    (tmp_path / "clone" / "data.dvc").write_text((ctx.root / "data.dvc").read_text())
    dvc(tmp_path / "clone", "remote", "add", "--local", "--default", "theirs", str(ctx.root / ".trimtab/dvc-remote"))
    dvc(tmp_path / "clone", "pull")
    there = sorted(p.relative_to(ctx.root) for p in (ctx.root / "data").rglob("*.parquet"))
    assert there == sorted(p.relative_to(tmp_path / "clone") for p in (tmp_path / "clone" / "data").rglob("*.parquet"))


def test_the_same_period_again_makes_no_version(ctx: ProjectContext) -> None:
    ingest("2013-01")
    heads, landing = ctx.ledger.heads(), ctx.ledger.landings()
    ingest("2013-01")
    assert (ctx.ledger.heads(), ctx.ledger.landings()) == (heads, landing)


def test_a_file_added_by_hand_joins_the_next_version(ctx: ProjectContext) -> None:
    ingest("2013-01")
    mended = sample_project.rows("2013-01", seed=7)
    mended.to_parquet(ctx.root / "data" / "accepted" / "2013-01.parquet")
    dvc(ctx.root, "add", "data")
    theirs = dataset.current(ctx.root)
    assert datasets.current(ctx).hash == theirs.hash
    ingest("2013-02")
    kept = dataset.read(ctx.root, datasets.current(ctx).hash, last="2013-01")
    pd.testing.assert_frame_equal(kept, mended)
    assert [head.cause for head in ctx.ledger.heads()] == ["landed", "accepted", "by hand", "landed", "accepted"]
    assert "up to date" in dvc(ctx.root, "status")


def test_a_file_added_before_the_first_version_joins_too(ctx: ProjectContext) -> None:
    """A ledger that begins with a dataset from elsewhere."""
    ingest("2013-01")
    fresh = ProjectContext(ctx.settings, ctx.params, Ledger(f"sqlite:///{ctx.root}/fresh.db"))
    migrate(fresh.ledger)
    (ctx.root / ".dvc" / "tmp" / "trimtab-wrote").unlink()
    assert datasets.current(fresh).hash == dataset.current(ctx.root).hash
    sample_project.rows("2013-01", seed=7).to_parquet(ctx.root / "data" / "accepted" / "2013-01.parquet")
    dvc(ctx.root, "add", "data")
    assert datasets.current(fresh).hash == dataset.current(ctx.root).hash
    assert [head.cause for head in fresh.ledger.heads()] == ["found", "by hand"]


def test_a_manual_change_that_loses_a_race_is_merged_after_the_winner(
    ctx: ProjectContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest("2013-01")
    mended = sample_project.rows("2013-01", seed=7)
    mended.to_parquet(ctx.root / "data" / "accepted" / "2013-01.parquet")
    dvc(ctx.root, "add", "data")
    really, base = Ledger.move_head, ctx.ledger.heads()[0]

    def move(ledger: Ledger, hash: str, **facts: Any) -> Any:
        """Another run is faster, once."""
        monkeypatch.setattr(Ledger, "move_head", really)
        really(ledger, base.hash, pointer=base.pointer, expected=facts["expected"], period="", cause="elsewhere")
        return really(ledger, hash, **facts)

    monkeypatch.setattr(Ledger, "move_head", move)
    newest = datasets.current(ctx)
    assert [head.cause for head in ctx.ledger.heads()][2:] == ["elsewhere", "by hand"]
    pd.testing.assert_frame_equal(dataset.read(ctx.root, newest.hash, last="2013-01"), mended)


def test_a_file_removed_by_hand_is_gone_from_the_next_version(ctx: ProjectContext) -> None:
    ingest("2013-01", "2013-02")
    (ctx.root / "data" / "accepted" / "2013-01.parquet").unlink()
    dvc(ctx.root, "add", "data")
    ingest("2013-03")
    assert dataset.names(ctx.root, datasets.current(ctx).hash, folder="accepted") == ["2013-02", "2013-03"]


def test_what_was_edited_and_not_added_stays_on_disk_and_out_of_the_dataset(ctx: ProjectContext) -> None:
    ingest("2013-01")
    edited = ctx.root / "data" / "accepted" / "2013-01.parquet"
    before, _ = files(ctx)["accepted/2013-01.parquet"], edited.write_bytes(b"an edit")
    ingest("2013-02")
    assert files(ctx)["accepted/2013-01.parquet"] == before
    assert edited.read_bytes() == b"an edit"
    assert "data" in dvc(ctx.root, "status")


def test_going_back_to_an_older_data_dvc_is_followed_on_a_laptop(ctx: ProjectContext) -> None:
    ingest("2013-01")
    older = dataset.current(ctx.root)
    ingest("2013-02")
    (ctx.root / "data.dvc").write_text(older.pointer)
    assert datasets.current(ctx).hash == older.hash
    ingest("2013-03")
    assert dataset.names(ctx.root, datasets.current(ctx).hash, folder="accepted") == ["2013-01", "2013-03"]


def test_a_manual_change_whose_rows_cannot_be_fetched_is_an_error_and_stays(ctx: ProjectContext) -> None:
    ingest("2013-01")
    unknown = yaml.safe_dump({"outs": [{"md5": f"{'0' * 32}.dir", "path": "data"}]})
    (ctx.root / "data.dvc").write_text(unknown)
    with pytest.raises(DatasetError, match=r"0000\.dir is neither in DVC's cache nor its remote: `dvc push` it"):
        ingest("2013-02")
    assert (ctx.root / "data.dvc").read_text() == unknown


def test_a_ledger_that_is_new_begins_with_what_data_dvc_names(ctx: ProjectContext) -> None:
    sample_project.rows("2013-01").to_parquet(_folder(ctx.root / "data" / "accepted") / "2013-01.parquet")
    dataset.init(ctx.root)
    dvc(ctx.root, "add", "data")
    ingest("2013-02")
    assert dataset.names(ctx.root, datasets.current(ctx).hash, folder="accepted") == ["2013-01", "2013-02"]
    assert ctx.ledger.heads()[0].cause == "found"


def test_a_data_dvc_whose_rows_are_nowhere_does_not_keep_a_new_ledger_from_beginning(
    ctx: ProjectContext, capsys: pytest.CaptureFixture[str]
) -> None:
    (ctx.root / "data.dvc").write_text(yaml.safe_dump({"outs": [{"md5": f"{'0' * 32}.dir", "path": "data"}]}))
    ingest("2013-01")
    assert "which is in no cache or remote: the dataset begins anew" in capsys.readouterr().out
    assert dataset.names(ctx.root, datasets.current(ctx).hash, folder="accepted") == ["2013-01"]


def test_where_the_project_cannot_be_written_to_the_state_holds_what_is_laid_out(
    ctx: ProjectContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("operations.context.os.access", lambda *_: False)
    before = sorted(ctx.root.rglob("*"))
    monkeypatch.setenv("TRIMTAB_HOME", str(ctx.root.parent / "state"))
    ingest("2013-01")
    inside = load_context()
    assert inside.workspace == ctx.root.parent / "state" / "workspace"
    assert sorted(ctx.root.rglob("*")) == before
    assert set(files(inside)) >= {"accepted/2013-01.parquet"}


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


# -- a team: one store, one ledger, runs in folders of their own


@pytest.fixture
def team(seaweed: Seaweed, postgres: Settings, tmp_path: Path) -> Iterator[Team]:
    from deployments import stack

    with pytest.MonkeyPatch.context() as patch:
        url = stack.ledger_url(postgres)
        ledger = Ledger(url)
        migrate(ledger)
        yield Team(tmp_path, ledger, {
            **{k: v for k, v in os.environ.items() if not k.startswith(("TRIMTAB_", "PREFECT_"))}, **credentials(),
            "TRIMTAB_LEDGER_URL": url, "TRIMTAB_STORE": seaweed.place(), "TRIMTAB_STORE_ENDPOINT": seaweed.endpoint,
            "PYTHONPATH": str(CODE), "OMP_WAIT_POLICY": "passive",
        }, patch)  # fmt: skip
        _empty(ledger)


def _empty(ledger: Ledger) -> None:
    from sqlalchemy import text

    with ledger.transaction() as db:
        for table in ("dataset_heads", "datasets", "landings", "batches", "validations", "alerts"):
            db.execute(text(f"DELETE FROM {table}"))


class Team:
    """Runs that share a store and a ledger and nothing else."""

    def __init__(self, folder: Path, ledger: Ledger, env: dict[str, str], patch: pytest.MonkeyPatch) -> None:
        self.folder, self.ledger, self.env, self.patch = folder, ledger, env, patch

    def start(self, name: str, *periods: str, **env: str) -> subprocess.Popen[str]:
        """A flow run in a folder of its own that holds no data; it waits for `go`."""
        root = sample_project.project(self.folder / name, *periods)
        own = {"TRIMTAB_PROJECT": str(root), "READY": str(root / "ready"), "GO": str(self.folder / "go"), **env}
        return subprocess.Popen(
            [sys.executable, "-m", "tests.operations.sample_project", *periods], env={**self.env, **own}, cwd=CODE,
            text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def go(self, *runs: subprocess.Popen[str]) -> list[tuple[int, str]]:
        """Let all begin at the same moment; exit codes, and what was said."""
        deadline = time.monotonic() + 90
        names = {path.parent.name for path in self.folder.glob("*/params.yaml")}
        while {path.parent.name for path in self.folder.glob("*/ready")} != names:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        (self.folder / "go").touch()
        ended = [(run, run.communicate(timeout=200)[0]) for run in runs]
        return [(run.returncode, said) for run, said in ended]

    def seen_from(self, name: str) -> ProjectContext:
        """A machine that is new."""
        root = sample_project.project(self.folder / name)
        for variable, value in {**self.env, "TRIMTAB_PROJECT": str(root)}.items():
            if variable.startswith("TRIMTAB_"):
                self.patch.setenv(variable, value)
        dataset.init(root)
        return load_context()


@pytest.mark.timeout(300)  # two processes of ten seconds each on an idle machine
def test_two_runs_with_empty_folders_and_different_periods_make_one_dataset_with_both(team: Team) -> None:
    runs = [team.start("a", "2013-01", "2013-03"), team.start("b", "2013-02", "2013-04")]
    assert [code for code, said in team.go(*runs) if code or print(said)] == []
    ctx = team.seen_from("c")
    accepted = dataset.names(ctx.workspace, datasets.current(ctx).hash, folder="accepted", remote=ctx.remote)
    assert accepted == ["2013-01", "2013-02", "2013-03", "2013-04"]
    assert len(dataset.read(ctx.workspace, datasets.current(ctx).hash, remote=ctx.remote)) == 4 * 8 * 28
    trees = [set(files(ctx, head.hash)) for head in team.ledger.heads()]
    assert all(earlier < later for earlier, later in itertools.pairwise(trees)), "nothing was ever lost"
    assert len(trees) == 8
    assert {head.hash for head in team.ledger.heads()} == {row.hash for row in team.ledger.datasets()}


def test_two_runs_of_the_same_period_make_it_once(team: Team) -> None:
    assert [code for code, _ in team.go(team.start("a", "2013-01"), team.start("b", "2013-01"))] == [0, 0]
    ctx = team.seen_from("c")
    assert [head.cause for head in team.ledger.heads()] == ["landed", "accepted"]
    assert len(files(ctx)) == 2
    landing = team.ledger.landing("2013-01")
    assert landing is not None
    assert landing.number == 1


def test_a_run_that_is_killed_after_its_push_is_repaired_by_the_next(team: Team) -> None:
    assert team.go(team.start("a", "2013-01", DIE="1"))[0][0] == 9
    assert team.ledger.head() is None
    code, said = team.go(team.start("b", "2013-01"))[0]
    assert code == 0, said
    ctx = team.seen_from("c")
    assert set(dataset.paths(ctx.workspace, datasets.current(ctx).hash, folder="accepted", remote=ctx.remote)) == {
        "2013-01"
    }


def test_a_run_fetches_only_the_files_that_it_asks_for(team: Team) -> None:
    assert team.go(team.start("a", "2013-01", "2013-02", "2013-03"))[0][0] == 0
    ctx = team.seen_from("c")
    hash = datasets.current(ctx).hash
    assert len(dataset.names(ctx.workspace, hash, folder="accepted", remote=ctx.remote)) == 3
    cached = ctx.workspace / ".dvc" / "cache" / "files"
    assert [p.suffix for p in cached.rglob("*") if p.is_file()] == [".dir"]
    dataset.paths(ctx.workspace, hash, folder="accepted", last="2013-02", remote=ctx.remote)
    assert len([p for p in cached.rglob("*") if p.is_file() and not p.suffix]) == 2


def test_a_batch_that_landed_elsewhere_can_be_validated_here(team: Team) -> None:
    assert team.go(team.start("a", "2013-01"))[0][0] == 0
    ctx = team.seen_from("c")
    heads = team.ledger.heads()
    sample_project.plainly(team.patch.setattr)[1].validate.fn("2013-01")
    assert team.ledger.heads() == heads
    assert not list((ctx.workspace / "data").rglob("landed/*/*.parquet"))


def test_an_image_with_an_older_data_dvc_does_not_turn_the_dataset_back(team: Team) -> None:
    assert team.go(team.start("a", "2013-01", "2013-02"))[0][0] == 0
    older = team.ledger.heads()[1]
    ctx = team.seen_from("c")
    (ctx.root / "data.dvc").write_text(older.pointer)
    assert datasets.current(ctx).hash == team.ledger.heads()[-1].hash


def test_two_manual_changes_of_different_files_are_both_merged(team: Team) -> None:
    assert team.go(team.start("a", "2013-01", "2013-02"))[0][0] == 0
    changed: dict[str, ProjectContext] = {}
    for name, period in (("ann", "2013-01"), ("bob", "2013-02")):
        ctx = changed[name] = team.seen_from(name)
        dataset.sync_pointer(ctx.workspace, lambda ctx=ctx: datasets.current(ctx))  # type: ignore[misc]
        with open_repository(ctx.workspace, ctx.remote) as repo:  # `dvc pull`, from the store
            repo.pull(targets=[str(ctx.workspace / "data.dvc")])
        path = ctx.workspace / "data" / "accepted" / f"{period}.parquet"
        path.unlink()
        sample_project.rows(period, seed=9).to_parquet(path)
        dataset.save(ctx.workspace, message="by hand", remote=ctx.remote)
    for ctx in changed.values():
        datasets.newest(ctx)
    ctx = team.seen_from("c")
    for period in ("2013-01", "2013-02"):
        path = datasets.fetch_file(ctx, f"accepted/{period}.parquet")
        pd.testing.assert_frame_equal(pd.read_parquet(path), sample_project.rows(period, seed=9))


def test_an_unavailable_store_stops_a_run_before_the_ledger_names_a_version(team: Team, seaweed: Seaweed) -> None:
    with proxied(seaweed.port) as line:
        team.env["TRIMTAB_STORE_ENDPOINT"] = line.endpoint
        ctx = team.seen_from("c")
        file = ctx.workspace / "f"
        file.write_bytes(b"rows")
        first = dataset.extend(ctx.workspace, None, {"accepted/2013-01.parquet": file}, remote=ctx.remote)
        line.leave()
        team.patch.setenv("AWS_MAX_ATTEMPTS", "1")  # s3fs has five of its own around these
        with pytest.raises(dataset.Unavailable, match=r"s3://.*/dvc"):
            dataset.extend(ctx.workspace, first, {"accepted/2013-02.parquet": file}, remote=ctx.remote)


def test_a_damaged_object_is_not_read(team: Team, seaweed: Seaweed) -> None:
    assert team.go(team.start("a", "2013-01"))[0][0] == 0
    ctx = team.seen_from("c")
    md5 = files(ctx)["accepted/2013-01.parquet"]
    bucket, _, prefix = team.env["TRIMTAB_STORE"].removeprefix("s3://").partition("/")
    seaweed.client.put_object(Bucket=bucket, Key=f"{prefix}/dvc/files/md5/{md5[:2]}/{md5[2:]}", Body=b"other rows")
    for _ in range(2):
        with pytest.raises(DatasetError, match="damaged"):
            datasets.fetch_file(ctx, "accepted/2013-01.parquet")


def test_a_pointer_keeps_other_keys_that_were_written_into_it(ctx: ProjectContext) -> None:
    ingest("2013-01")
    kept: dict[str, Any] = yaml.safe_load((ctx.root / "data.dvc").read_text())
    kept["outs"][0]["desc"] = "flights"
    base = DatasetVersion(dataset.current(ctx.root).hash, yaml.safe_dump(kept))
    made = dataset.extend(ctx.root, base, {"accepted/2013-01.parquet": None})
    assert yaml.safe_load(made.pointer)["outs"][0] == {
        **kept["outs"][0], "md5": made.hash, "nfiles": 1,
        "size": (ctx.root / "data" / "landed" / "2013-01").iterdir().__next__().stat().st_size,
    }  # fmt: skip
