"""What a project has in its state folder is in the object store as well, where there is one."""

from __future__ import annotations

from pathlib import Path

import pytest

from operations.context import ProjectContext
from stores.ledger import Ledger
from tests.stores.proxy import proxied
from tests.stores.seaweed import Seaweed, seaweed
from tests.trimtab import sample_rows
from trimtab.config.settings import Settings

__all__ = ["seaweed"]
PAGE = "<p>März</p>"


def place_at(folder: Path, **settings: str) -> ProjectContext:
    ledger = Ledger(f"sqlite:///{folder / 'ledger.db'}")
    return ProjectContext(
        Settings.model_validate({"project": folder, "home": folder, **settings}), sample_rows.params(), ledger
    )


def test_a_report_is_kept_in_the_folder(tmp_path: Path) -> None:
    where = place_at(tmp_path).save_report("batch.html", PAGE)
    assert Path(where).read_text() == PAGE
    assert Path(where) == tmp_path / "reports" / "batch.html"


def test_a_report_is_kept_in_the_store_for_browsers(tmp_path: Path, seaweed: Seaweed) -> None:
    ctx = place_at(tmp_path, store=seaweed.place(), store_endpoint=seaweed.endpoint)
    where = ctx.save_report("batch.html", PAGE)
    bucket, _, key = where.removeprefix("s3://").partition("/")
    answer = seaweed.client.get_object(Bucket=bucket, Key=key)
    assert answer["Body"].read().decode() == PAGE
    assert answer["ContentType"] == "text/html"


def test_a_report_that_the_store_does_not_take_stays_in_the_folder(
    tmp_path: Path, seaweed: Seaweed, capsys: pytest.CaptureFixture[str]
) -> None:
    with proxied(seaweed.port) as proxy:
        ctx = place_at(tmp_path, store=seaweed.place(), store_endpoint=proxy.endpoint)
        proxy.leave()
        where = ctx.save_report("batch.html", PAGE)
    assert Path(where).read_text() == PAGE
    assert "s3://" in capsys.readouterr().out


def test_without_a_store_releases_and_telemetry_are_folders(tmp_path: Path) -> None:
    ctx = place_at(tmp_path)
    assert ctx.releases.objects is None
    assert ctx.telemetry == tmp_path / "telemetry"
