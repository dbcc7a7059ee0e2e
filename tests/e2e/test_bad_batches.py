"""Bad batches, fed to the running stack: nothing is lost, nothing bad is learned, users are answered all the while."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pandas as pd
import pytest

from stores.ledger import Alert
from tasks import dataset
from tests.conftest import Stack
from tests.e2e.conftest import ended, started
from tests.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("same_data")]

INGEST = """
import sys
from flows.ingest import ingest
for period in sys.argv[1:]:
    ingest(period)
"""


def files(stack: Stack) -> set[str]:
    """Everything under data/."""
    data = stack.settings.root / "data"
    return {str(path.relative_to(data)) for path in data.rglob("*.parquet")}


def accepted(stack: Stack) -> dict[str, bytes]:
    """The rows that training may see."""
    return {path.stem: path.read_bytes() for path in (stack.settings.root / "data" / "accepted").iterdir()}


def answers(stack: Stack) -> str:
    """The release that answers a row now."""
    release = stack.ledger.live()
    assert release is not None
    samples = stack.settings.releases / release.champion / "samples.json"
    row = json.loads(samples.read_text())["rows"][0]
    answer = httpx.post(f"{stack.settings.model_server}/predict", json={"rows": [row]}, timeout=10)
    return str(answer.raise_for_status().json()["release"])


def alerts_of(stack: Stack, period: str) -> list[Alert]:
    """The alerts about batches of a period."""
    return [a for a in stack.ledger.alerts() if a.id.startswith(f"batch:{period}")]


def test_bad_batches_are_quarantined_whole_and_pass_once_they_are_mended(stack: Stack) -> None:
    bad = {"2013-08": "empty", "2013-09": "missing column", "2013-10": "mostly bad"}
    why = {"2013-08": "no row", "2013-09": "temp", "2013-10": "distance"}
    before, live, seen = accepted(stack), stack.ledger.live(), files(stack)
    stack.fault(**{f"p{period.replace('-', '_')}": fault for period, fault in bad.items()})
    try:
        stack.python(INGEST, *bad, "2013-08")  # the same again changes nothing
    finally:
        stack.fault()
    for period in bad:
        (check,) = stack.ledger.validations(period)
        assert not check.accepted
        assert why[period] in check.reason
        (alert,) = alerts_of(stack, period)
        assert why[period] in alert.message
        landed = {f for f in files(stack) - seen if f.startswith(f"landed/{period}")}
        assert landed == {f"landed/{period}/{check.digest}.parquet"}
    kept = stack.settings.root / "data" / "quarantined" / "2013-10"
    rows = pd.read_parquet(next(kept.iterdir()))
    assert len(rows) == stack.ledger.validations("2013-10")[0].rows_bad
    assert rows["reason"].str.contains("distance").all()
    assert accepted(stack) == before
    assert stack.ledger.live() == live
    assert live is not None
    assert answers(stack) == live.champion
    assert ended(stack, started(stack, "ingest/on-request", period="2013-09"))["state_type"] == "COMPLETED"
    assert [check.accepted for check in stack.ledger.validations("2013-09")] == [False, True]
    assert len(alerts_of(stack, "2013-09")) == 1
    version = dataset.current(stack.settings.root).hash
    assert set(dataset.paths(stack.settings.root, version, folder="accepted")) == {*before, "2013-09"}
    assert any(f.startswith("landed/2013-09") and f not in seen for f in files(stack)), "the bad one is kept as well"
    eventually(
        lambda: f"monitor:2013-09:{stack.ledger.validations('2013-09')[1].digest}" in stack.ledger.outcomes(),
        "monitoring of the mended batch", within_s=60,
    )  # fmt: skip


def test_a_corrected_batch_makes_a_new_dataset_version_and_the_old_rows_stay_readable(stack: Stack) -> None:
    """Some bad rows in it are set aside with their reasons; the others are accepted."""
    root = stack.settings.root
    old = dataset.current(root).hash
    rows = len(pd.read_parquet(root / "data" / "accepted" / "2013-01.parquet"))
    stack.fault(p2013_01="some bad rows")
    try:
        assert ended(stack, started(stack, "ingest/on-request", period="2013-01"))["state_type"] == "COMPLETED"
    finally:
        stack.fault()
    new = dataset.current(root).hash
    first, second = stack.ledger.validations("2013-01")
    assert first.accepted
    assert second.accepted
    assert second.rows_bad > 0
    assert second.rows_good + second.rows_bad == first.rows_good
    set_aside = pd.read_parquet(root / "data" / "quarantined" / "2013-01" / f"{second.digest}.parquet")
    assert len(set_aside) == second.rows_bad
    assert set_aside["reason"].str.contains("distance").all()
    assert {old, new} <= {version.hash for version in stack.ledger.datasets()}
    assert len(dataset.read(root, old, last="2013-01")) == rows
    assert len(dataset.read(root, new, last="2013-01")) == second.rows_good


def test_a_source_that_fails_half_way_leaves_nothing_half_done(stack: Stack) -> None:
    before, checks, versions = files(stack), stack.ledger.validations(), stack.ledger.datasets()
    stack.fault(p2013_11="fails")
    try:
        on_worker = started(stack, "ingest/on-request", period="2013-11")
        by_hand = stack.trimtab("run", "ingest", "-p", "period=2013-11", check=False)
        run = ended(stack, on_worker)
    finally:
        stack.fault()
    assert run["state_type"] == "FAILED"
    assert "small:load failed for 2013-11" in run["state"]["message"]
    assert "went away half-way" in run["state"]["message"]
    assert by_hand.returncode == 1
    assert by_hand.stderr.splitlines()[-1].startswith("trimtab: small:load failed for 2013-11")
    assert "Traceback" not in by_hand.stderr + by_hand.stdout
    assert (files(stack), stack.ledger.validations(), stack.ledger.datasets()) == (before, checks, versions)
    alert = eventually(
        lambda: next((a for a in stack.ledger.alerts() if a.id == f"run:{run['id']}"), None),
        "an alert about the failed run", within_s=90,
    )  # fmt: skip
    assert "small:load failed for 2013-11" in alert.message
    assert ended(stack, started(stack, "ingest/on-request", period="2013-11"))["state_type"] == "COMPLETED"
    assert stack.ledger.validations("2013-11")[-1].accepted


def test_a_full_disk_is_named_and_the_next_run_finishes(stack: Stack) -> None:
    """No file may grow beyond 100 kB, which is less than a batch: what writing then meets is what a full disk gives."""
    before, versions = files(stack), stack.ledger.datasets()
    limited = _limited(stack, "run", "ingest", "-p", "period=2013-12", bytes_=100_000)
    assert limited.returncode == 1
    assert "Traceback" not in limited.stderr
    last = limited.stderr.splitlines()[-1]
    assert last.startswith(f"trimtab: {stack.settings.root / 'data' / 'landed' / '2013-12'}")
    assert "make room" in last
    assert files(stack) == before
    assert stack.ledger.datasets() == versions
    assert not list((stack.settings.root / ".dvc" / "tmp").glob("*.parquet")), "nothing is left lying about"
    assert ended(stack, started(stack, "ingest/on-request", period="2013-12"))["state_type"] == "COMPLETED"
    assert stack.ledger.validations("2013-12")[-1].accepted


def _limited(stack: Stack, *args: str, bytes_: int) -> subprocess.CompletedProcess[str]:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, bytes_))

    return subprocess.run(
        [sys.executable, "-m", "cli", *args], env=stack.env, cwd=Path(stack.env["TRIMTAB_PROJECT"]),
        capture_output=True, text=True, timeout=120, check=False, preexec_fn=limit,  # one thread here
    )  # fmt: skip
