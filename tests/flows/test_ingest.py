"""Ingest from a bucket on a real S3 server: each change of an object is ingested once, what has not changed never."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deployments.definitions import deployment_specs
from operations import datasets, ingestion, reconciliation
from operations.context import NotSetUp, ProjectContext, load_context
from stores.ledger import Ledger
from stores.ledger.migrations import migrate
from tasks import dataset
from tasks.source_access import SourceError, SourceRejected
from tests.operations import sample_project
from tests.stores.proxy import proxied
from tests.stores.seaweed import BUCKET, Seaweed, seaweed, shorten_retries
from trimtab.config import params
from trimtab.config.settings import Settings

__all__ = ["seaweed"]


def die(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


@dataclass
class Source:
    """A bucket in which rows arrive, and a project that takes them from there."""

    client: Any
    folder: str
    ctx: ProjectContext
    ingest: Any
    patch: pytest.MonkeyPatch

    def put(self, name: str, rows: Any) -> None:
        self.client.put_object(Bucket=BUCKET, Key=f"{self.folder}/{name}.csv", Body=rows.to_csv(index=False).encode())

    def changes(self) -> list[str]:
        """What a run for changes landed."""
        return list(self.ingest.ingest.fn(changed=True).split())

    def nothing_is_downloaded(self) -> None:
        def read(*_: Any) -> None:
            pytest.fail("objects were downloaded")

        self.patch.setattr(ingestion, "read_bucket", read)


@pytest.fixture
def source(tmp_path: Path, seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> Source:
    folder = f"rows-{uuid.uuid4().hex[:12]}"
    sample_project.project(tmp_path / "project", target=f"s3://{BUCKET}/{folder}/{{period}}*.csv")
    address = f"sqlite:///{tmp_path}/ledger.db"
    migrate(Ledger(address))
    monkeypatch.setenv("TRIMTAB_LEDGER_URL", address)
    monkeypatch.setenv("TRIMTAB_PROJECT", str(tmp_path / "project"))
    monkeypatch.setenv("TRIMTAB_SOURCE_ENDPOINT", seaweed.endpoint)
    shorten_retries(monkeypatch)
    ingest = sample_project.plainly(monkeypatch.setattr)[0]
    return Source(seaweed.client, folder, load_context(), ingest, monkeypatch)


def test_new_objects_of_complete_periods_land_oldest_first_and_once(source: Source) -> None:
    for period in ("2013-02", "2013-01"):
        source.put(f"{period}-a", sample_project.rows(period))
    assert len(source.changes()) == 2
    assert [check.period for check in source.ctx.ledger.validations()] == ["2013-01", "2013-02"]
    source.nothing_is_downloaded()
    assert source.changes() == []
    assert len(source.ctx.ledger.landings()) == 2


def test_which_objects_a_batch_was_made_of_is_in_the_ledger(source: Source) -> None:
    halves = sample_project.rows("2013-01")
    source.put("2013-01-a", halves.iloc[:100])
    source.put("2013-01-b", halves.iloc[100:])
    [digest] = source.changes()
    landing = source.ctx.ledger.landing("2013-01")
    assert landing is not None
    listed = source.client.list_objects_v2(Bucket=BUCKET, Prefix=f"{source.folder}/")["Contents"]
    assert landing.objects == [[each["Key"], each["ETag"].strip('"'), each["Size"]] for each in listed]
    assert landing.digest == digest


def test_an_object_that_changes_is_ingested_again_and_each_change_once(source: Source) -> None:
    source.put("2013-01", sample_project.rows("2013-01"))
    [first] = source.changes()
    source.put("2013-01", sample_project.rows("2013-01", seed=1))
    [second] = source.changes()
    source.put("2013-01-late", sample_project.rows("2013-01", seed=2).assign(id=lambda r: "late-" + r["id"]))
    [third] = source.changes()
    assert len({first, second, third}) == 3
    assert source.changes() == []
    landing = source.ctx.ledger.landing("2013-01")
    assert landing is not None
    assert (landing.number, landing.digest) == (3, third)


def test_an_object_that_changes_back_brings_the_first_rows_back(source: Source) -> None:
    digests = []
    for seed in (0, 1, 0):
        source.put("2013-01", sample_project.rows("2013-01", seed=seed))
        digests += source.changes()
    landing = source.ctx.ledger.landing("2013-01")
    assert landing is not None
    assert digests == [digests[0], digests[1], digests[0]]
    assert (landing.number, landing.digest) == (3, digests[0])


def test_a_period_asked_for_by_name_is_not_downloaded_when_its_objects_are_the_same(source: Source) -> None:
    source.put("2013-01", sample_project.rows("2013-01"))
    digest = source.ingest.ingest.fn("2013-01")
    source.nothing_is_downloaded()
    heads = source.ctx.ledger.heads()
    assert source.ingest.ingest.fn("2013-01") == digest
    assert source.ctx.ledger.heads() == heads


def test_a_batch_that_was_refused_is_not_tried_again_until_its_objects_change(source: Source) -> None:
    source.put("2013-01", sample_project.rows("2013-01", x=dict.fromkeys(range(100), 99)))
    assert len(source.changes()) == 1
    assert [check.accepted for check in source.ctx.ledger.validations()] == [False]
    assert source.changes() == []
    source.put("2013-01", sample_project.rows("2013-01"))
    assert len(source.changes()) == 1
    assert [check.accepted for check in source.ctx.ledger.validations()] == [False, True]


def test_a_period_that_is_not_over_waits(source: Source) -> None:
    now = f"{datetime.now(UTC):%Y-%m}"
    source.put(now, sample_project.rows(now))
    source.put("2012-12", sample_project.rows("2012-12"))  # before the project's first
    assert source.changes() == []


def test_where_nothing_has_come_yet_nothing_lands(source: Source) -> None:
    assert source.ingest.ingest.fn("2013-01") == ""
    assert source.ctx.ledger.validations() == []
    assert source.ctx.ledger.head() is None


def test_a_run_that_dies_before_its_landing_is_recorded_is_made_good_by_the_next(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.put("2013-01", sample_project.rows("2013-01"))
    with monkeypatch.context() as dying:
        dying.setattr(Ledger, "record_landing", die)
        with pytest.raises(KeyboardInterrupt):
            source.changes()
    assert len(source.changes()) == 1
    assert [head.cause for head in source.ctx.ledger.heads()] == ["landed", "accepted"]


def test_a_landing_without_validation_is_validated_by_reconcile(source: Source) -> None:
    asked: list[tuple[str, str, Any]] = []

    def start(name: str, *, key: str, parameters: Any) -> str:
        asked.append((name, key, parameters))
        return "its run"

    prefect = SimpleNamespace(has_active_run=lambda *_: False, run_state=lambda _: "PENDING", start_run=start)
    source.patch.setattr(reconciliation, "orchestrator", prefect)
    for seed in (0, 1):
        source.put("2013-01", sample_project.rows("2013-01", seed=seed))
        source.changes()
    source.put("2013-01", sample_project.rows("2013-01", seed=0))  # the rows of the first
    with source.patch.context() as dying, pytest.raises(KeyboardInterrupt):
        dying.setattr(source.ingest, "validate", die)
        source.changes()
    assert source.changes() == []
    assert reconciliation.missing_validations(source.ctx) == [], "the run that landed it may still validate it"
    source.patch.setattr(reconciliation, "INGEST_GRACE", timedelta(seconds=-1))
    landing = source.ctx.ledger.landing("2013-01")
    assert landing is not None
    assert len(reconciliation.missing_validations(source.ctx)) == 1
    assert asked == [("validate/on-request", "validate:2013-01:3#1", {"period": "2013-01", "batch": landing.digest})]
    import_module("flows.validate").validate.fn("2013-01", landing.digest)
    assert reconciliation.missing_validations(source.ctx) == []


def test_of_two_ingests_of_a_period_the_rows_that_landed_last_are_the_accepted_ones(source: Source) -> None:
    source.put("2013-01", sample_project.rows("2013-01"))
    really = source.ingest.validate

    def validate(period: str, digest: str) -> bool:
        """Another run lands and validates newer rows before this one gets to it."""
        source.patch.setattr(source.ingest, "validate", really)
        source.put("2013-01-late", sample_project.rows("2013-01", seed=2).assign(id=lambda r: "late-" + r["id"]))
        source.ingest.ingest.fn("2013-01")
        return bool(really(period, digest))

    source.patch.setattr(source.ingest, "validate", validate)
    source.ingest.ingest.fn("2013-01")
    newest = dataset.read(source.ctx.workspace, datasets.current(source.ctx).hash)
    assert newest["id"].str.startswith("late-").sum() == len(sample_project.rows("2013-01"))


def test_a_period_that_cannot_be_read_keeps_no_other_from_landing(source: Source) -> None:
    source.client.put_object(Bucket=BUCKET, Key=f"{source.folder}/2013-01.csv", Body=b'id,at\n"1')
    source.put("2013-02", sample_project.rows("2013-02"))
    with pytest.raises(SourceError, match=r"2013-01\.csv cannot be read"):
        source.changes()
    assert list(source.ctx.ledger.landings()) == ["2013-02"]


def test_a_schema_that_is_gone_is_not_inferred_from_the_batch_that_it_would_judge(source: Source) -> None:
    for period in ("2013-01", "2013-02"):
        source.put(period, sample_project.rows(period))
    schema = source.ctx.root / "schema.yaml"
    schema.unlink()
    source.ingest.ingest.fn("2013-01")
    schema.unlink()
    with pytest.raises(NotSetUp, match=r"schema\.yaml is missing, by which earlier batches were judged"):
        source.ingest.ingest.fn("2013-02")
    assert not schema.exists()


def test_where_a_schema_cannot_be_kept_none_is_inferred(source: Source) -> None:
    source.put("2013-01", sample_project.rows("2013-01"))
    (source.ctx.root / "schema.yaml").unlink()
    (source.ctx.root / "schema.yaml").symlink_to("nowhere/schema.yaml")
    with pytest.raises(NotSetUp, match=r"cannot be written .*commit it"):
        source.ingest.ingest.fn("2013-01")
    assert source.ctx.ledger.validations() == []


@pytest.mark.parametrize("trouble", ["away", "denied", "half a file"])
def test_a_source_that_fails_leaves_nothing_half_landed(source: Source, seaweed: Seaweed, trouble: str) -> None:
    source.put("2013-01-a", sample_project.rows("2013-01"))
    source.client.put_object(
        Bucket=BUCKET,
        Key=f"{source.folder}/2013-01-b.csv",
        Body=b'id,at\n"1' if trouble == "half a file" else b"id\n1\n",
    )
    expected: type[Exception] = SourceError
    with proxied(seaweed.port) as line:
        if trouble == "away":
            line.leave()
            source.patch.setenv("TRIMTAB_SOURCE_ENDPOINT", line.endpoint)
        elif trouble == "denied":
            source.patch.setenv("AWS_SECRET_ACCESS_KEY", "another")
            expected = SourceRejected
        with pytest.raises(expected, match=f"s3://{BUCKET}/{source.folder}/"):
            source.ingest.ingest.fn("2013-01")
    assert source.ctx.ledger.head() is None
    assert source.ctx.ledger.landings() == {}
    assert not list(source.ctx.root.glob("data/**/*.parquet"))


def test_the_deployment_that_looks_for_changes_rests_where_the_source_is_no_bucket(source: Source) -> None:
    project = params.load(source.ctx.root)
    elsewhere = project.model_copy(update={"source": project.source.model_copy(update={"target": "rows:load"})})
    for known, is_scheduled in ((project, True), (elsewhere, False)):
        found = {each.full_name: each for each in deployment_specs(known, Settings())}["ingest/on-change"]
        assert (found.is_scheduled, found.cron, found.parameters) == (is_scheduled, "*/5 * * * *", {"changed": True})
    with pytest.raises(ValueError, match="is no bucket: only objects of a bucket say whether they have changed"):
        ingestion.changed_periods(ProjectContext(Settings(), elsewhere, source.ctx.ledger))


def test_the_nightly_ingest_is_held_up_by_no_gap_in_the_bucket_and_by_no_refused_period(source: Source) -> None:
    source.put("2013-01-a", sample_project.rows("2013-01"))
    source.put("2013-02-a", sample_project.rows("2013-01"))  # rows of another period: refused
    source.put("2018-02-a", sample_project.rows("2018-02"))  # after sixty months of nothing
    assert len(source.ingest.ingest.fn().split()) == 3
    judged = {check.period: check.accepted for check in source.ctx.ledger.validations()}
    assert judged == {"2013-01": True, "2013-02": False, "2018-02": True}
    assert source.ingest.ingest.fn() == "", "and each has landed once"
