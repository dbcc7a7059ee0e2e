"""Alerts reach everybody who listens, once, over real HTTP; and their addresses stay secret."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from stores.ledger import Ledger, tables
from stores.ledger.migrations import migrate
from tasks import alerts
from trimtab.config.sections import AlertConfig

SECRET = "/hooks/s3cret"
LOG = AlertConfig(kind="log")
NOW = timedelta(0)  # no grace: whoever raised it has delivered what it could


class Hook:
    """A webhook that remembers what it was told, and can be out of order."""

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []
        self.status = 200
        self.posts = 0
        hook = self

        class Answer(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                hook.posts += 1
                if hook.status == 200:
                    hook.heard.append(body)
                self.send_response(hook.status)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        self.listener = AlertConfig.model_validate(
            {"kind": "webhook", "url": f"http://127.0.0.1:{self.server.server_port}{SECRET}"}
        )

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def hook() -> Iterator[Hook]:
    made = Hook()
    yield made
    made.stop()


@pytest.fixture
def other_hook() -> Iterator[Hook]:
    made = Hook()
    yield made
    made.stop()


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    migrate(made)
    return made


def say(ledger: Ledger, *listeners: AlertConfig, id: str = "batch:1") -> bool:
    return alerts.raise_alert(
        ledger, listeners, id=id, kind="batch refused", message="it is empty", evidence={"rows": 0}
    )


def test_an_alert_is_told_once_however_often_it_is_raised(
    ledger: Ledger, hook: Hook, caplog: pytest.LogCaptureFixture
) -> None:
    assert say(ledger, LOG, hook.listener)
    assert not say(ledger, LOG, hook.listener)
    assert alerts.deliver_pending(ledger, [LOG, hook.listener], grace=NOW) == []
    assert hook.heard == [{"id": "batch:1", "kind": "batch refused", "message": "it is empty", "evidence": {"rows": 0}}]
    assert [r.getMessage() for r in caplog.records if r.name == "trimtab.alerts"] == ["batch refused: it is empty"]
    assert say(ledger, hook.listener, id="batch:2")
    assert len(hook.heard) == 2


@pytest.mark.parametrize("status", [500, 404, 302])
def test_what_could_not_be_delivered_is_delivered_later_once(ledger: Ledger, hook: Hook, status: int) -> None:
    hook.status = status
    assert say(ledger, hook.listener)
    assert alerts.deliver_pending(ledger, [hook.listener], grace=NOW) == []
    hook.status = 200
    assert alerts.deliver_pending(ledger, [hook.listener], grace=NOW) == ["batch:1"]
    assert alerts.deliver_pending(ledger, [hook.listener], grace=NOW) == []
    assert len(hook.heard) == 1


def test_one_who_is_away_costs_the_others_nothing_and_no_repeats(
    ledger: Ledger, hook: Hook, other_hook: Hook, caplog: pytest.LogCaptureFixture
) -> None:
    """Reconcile tries every minute: who has heard must not hear it every minute."""
    hook.status = 503
    everybody = [hook.listener, other_hook.listener, LOG]
    assert say(ledger, *everybody)
    for _ in range(3):
        assert alerts.deliver_pending(ledger, everybody, grace=NOW) == []
    hook.status = 200
    assert alerts.deliver_pending(ledger, everybody, grace=NOW) == ["batch:1"]
    assert (len(hook.heard), len(other_hook.heard)) == (1, 1)
    assert sum(r.getMessage() == "batch refused: it is empty" for r in caplog.records) == 1


def test_one_who_is_gone_for_good_keeps_nobody_from_what_was_missed(
    ledger: Ledger, hook: Hook, other_hook: Hook
) -> None:
    """However much waits for one, the others get what they miss in one round, and it is asked once."""
    gone, back = hook, other_hook
    gone.status = back.status = 503
    everybody, ids = [gone.listener, back.listener], [f"batch:{number}" for number in range(5)]
    for id in ids:
        say(ledger, *everybody, id=id)
    gone.posts, back.status = 0, 200
    assert alerts.deliver_pending(ledger, everybody, grace=NOW) == []
    assert gone.posts == 1
    assert sorted(body["id"] for body in back.heard) == ids
    gone.status = 200
    assert sorted(alerts.deliver_pending(ledger, everybody, grace=NOW)) == ids
    assert (len(gone.heard), len(back.heard)) == (5, 5)


def test_the_newest_alert_is_delivered_first(ledger: Ledger, hook: Hook) -> None:
    for id, at in (("b", "2013-01-02"), ("a", "2013-01-03"), ("c", "2013-01-01")):
        ledger.add(tables.alerts, id=id, kind="k", message="m", evidence={}, recorded_at=datetime.fromisoformat(at))
    assert alerts.deliver_pending(ledger, [hook.listener], grace=NOW) == ["a", "b", "c"]


def test_an_alert_that_is_being_delivered_is_left_to_whoever_raised_it(ledger: Ledger, hook: Hook) -> None:
    ledger.record_alert("batch:1", kind="batch refused", message="it is empty", evidence={})
    assert alerts.deliver_pending(ledger, [hook.listener], grace=timedelta(seconds=20)) == []
    assert hook.posts == 0
    assert alerts.deliver_pending(ledger, [hook.listener], grace=NOW) == ["batch:1"]


def test_old_alerts_are_not_told_to_a_new_listener(ledger: Ledger, hook: Hook) -> None:
    say(ledger, LOG)
    assert alerts.deliver_pending(ledger, [LOG, hook.listener], grace=NOW) == []
    assert hook.heard == []


def test_no_address_is_logged_or_recorded(ledger: Ledger, hook: Hook, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        say(ledger, hook.listener)
        hook.status = 500
        say(ledger, hook.listener, LOG, id="batch:2")
        gone = AlertConfig.model_validate({"kind": "webhook", "url": f"http://127.0.0.1:1{SECRET}"})
        say(ledger, gone, id="batch:3")
    assert "could not be delivered" in caplog.text
    recorded = str(ledger.alerts()) + str(ledger.outcomes())
    assert "s3cret" not in caplog.text + recorded + repr(hook.listener)


@pytest.mark.parametrize(
    "url", ["http://[bad/s3cret", "s3cret", "ftp://127.0.0.1/s3cret", "http://127.0.0.1:99999/s3cret"]
)
def test_an_address_that_is_none_stops_nobody(
    ledger: Ledger, hook: Hook, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    broken = AlertConfig.model_validate({"kind": "webhook", "url": url})
    with caplog.at_level(logging.DEBUG):
        assert say(ledger, broken, hook.listener)
    assert len(hook.heard) == 1
    assert "s3cret" not in caplog.text
