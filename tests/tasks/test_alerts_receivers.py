"""Alerts reach Slack, mailboxes and whatever else apprise knows, at real receivers; none of these holds a flow up."""

from __future__ import annotations

import email
import email.policy
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller

from stores.ledger import Ledger
from stores.ledger.migrations import migrate
from tasks import alerts, notifiers
from tests.ports import free_ports
from trimtab.config.sections import AlertConfig

NOW = timedelta(0)  # no grace: whoever raised it has delivered what it could
TOKENS = ("TSECRET11", "ASECRET22", "s3cretTIiajkdnlazkcOXrI")


class Mailbox:
    """A mail server that keeps what it takes."""

    def __init__(self) -> None:
        self.letters: list[Any] = []
        self.refuses = False
        (port,) = free_ports(1)
        self.controller = Controller(self, hostname="127.0.0.1", port=port)
        self.controller.start()
        self.address = f"mailto://127.0.0.1:{port}?from=trimtab@example.org&to=oncall@example.org"

    async def handle_DATA(self, _server: object, _session: object, envelope: Any) -> str:  # noqa: N802
        if self.refuses:
            return "552 the mailbox is full"
        self.letters.append(envelope)
        return "250 OK"


class Service:
    """An HTTP service that keeps what it is told, with where."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []
        service = self

        class Answer(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                service.told.append((self.path, json.loads(body)))
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()


class Sloth:
    """Takes connections; says one letter every 0.2 s, or nothing at all, and never comes to an end."""

    def __init__(self, *, letters: bytes = b"") -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.calls = 0
        self._letters = letters
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                caller, _ = self.listener.accept()
                self.calls += 1
                threading.Thread(target=self._drip, args=(caller,), daemon=True).start()

    def _drip(self, caller: socket.socket) -> None:
        with suppress(OSError), caller:
            for letter in self._letters * 100:
                caller.sendall(bytes([letter]))
                time.sleep(0.2)
            time.sleep(30)


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    made = Mailbox()
    yield made
    made.controller.stop()


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service()
    yield made
    made.server.shutdown()
    made.server.server_close()
    made.thread.join()


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    migrate(made)
    return made


def listener(kind: str, **where: str) -> AlertConfig:
    return AlertConfig.model_validate({"kind": kind, **where})


def say(ledger: Ledger, *listeners: AlertConfig, id: str = "batch:1", message: str = "it is <empty> & sad") -> None:
    alerts.raise_alert(ledger, listeners, id=id, kind="batch refused", message=message, evidence={"rows": 0})


def waits(ledger: Ledger, id: str = "batch:1") -> bool:
    return f"alert:{id}" not in ledger.outcomes()


def test_a_letter_arrives_with_what_is_wrong(ledger: Ledger, mailbox: Mailbox) -> None:
    say(ledger, listener("email", url=mailbox.address))
    assert not waits(ledger)
    (envelope,) = mailbox.letters
    assert envelope.rcpt_tos == ["oncall@example.org"]
    letter = email.message_from_bytes(envelope.content, policy=email.policy.default)
    assert letter["Subject"] == "Trimtab: batch refused"
    body = letter.get_body(("plain", "html"))
    assert body is not None
    for part in ("it is", "empty", "rows: 0", "alert: batch:1"):
        assert part in body.get_content()
    assert "<empty>" not in envelope.content.decode().split("text/html")[-1]  # it is text, and no page's markup


def test_a_letter_that_was_refused_is_sent_again_until_it_is_taken(ledger: Ledger, mailbox: Mailbox) -> None:
    mailbox.refuses = True
    who = [listener("email", url=mailbox.address)]
    say(ledger, *who)
    assert waits(ledger)
    assert alerts.deliver_pending(ledger, who, grace=NOW) == []
    mailbox.refuses = False
    assert alerts.deliver_pending(ledger, who, grace=NOW) == ["batch:1"]
    assert alerts.deliver_pending(ledger, who, grace=NOW) == []
    assert len(mailbox.letters) == 1


def test_slack_is_told_at_the_address_that_slack_gives_out(
    ledger: Ledger, service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Only the name of Slack's host is another one here."""
    from apprise.plugins.slack import NotifySlack

    monkeypatch.setattr(NotifySlack, "webhook_url", f"http://127.0.0.1:{service.server.server_port}/services")
    monkeypatch.setenv("ALERTS_SLACK", f"https://hooks.slack.com/services/{'/'.join(TOKENS)}")
    with caplog.at_level(logging.DEBUG):
        say(ledger, listener("slack", url_env="ALERTS_SLACK"))
    ((path, told),) = service.told
    assert path == f"/services/{'/'.join(TOKENS)}"
    assert "it is" in json.dumps(told)
    assert not waits(ledger)
    known = caplog.text + str(ledger.outcomes()) + str(ledger.alerts())
    assert not [token for token in TOKENS if token in known]


def test_any_other_service_is_told_through_apprise(ledger: Ledger, service: Service, tmp_path: Path) -> None:
    secret = tmp_path / "address"
    secret.write_text(f"json://127.0.0.1:{service.server.server_port}/hooks/s3cret\n")
    say(ledger, listener("apprise", url_file=str(secret)))
    ((path, told),) = service.told
    assert path == "/hooks/s3cret"
    assert told["title"] == "Trimtab: batch refused"
    assert told["type"] == "warning"


def test_an_address_from_a_file_is_read_anew_each_time(ledger: Ledger, service: Service, tmp_path: Path) -> None:
    secret = tmp_path / "address"
    who = listener("webhook", url_file=str(secret))
    say(ledger, who)
    assert waits(ledger)
    secret.write_text(f"http://127.0.0.1:{service.server.server_port}/first")
    assert alerts.deliver_pending(ledger, [who], grace=NOW) == ["batch:1"]
    secret.write_text(f"http://127.0.0.1:{service.server.server_port}/second")
    say(ledger, who, id="batch:2")
    assert [path for path, _ in service.told] == ["/first", "/second"]


@pytest.mark.parametrize(
    ("kind", "address", "said"),
    [
        ("slack", None, "the variable ALERTS_ADDRESS is not set"),
        ("slack", "mailto://x@127.0.0.1/s3cret", "does not begin like one for kind slack"),
        ("email", "https://hooks.slack.com/s3cret", "does not begin like one for kind email"),
        ("apprise", "foo://s3cret", "none that apprise knows"),
        ("apprise", "s3cret", "none that apprise knows"),
        ("slack", "https://example.org/s3cret", "none that apprise knows"),
        ("email", "mailto://127.0.0.1:1?from=a@example.org&to=s3cret@example.org", "cannot be reached"),
    ],
    ids=["missing", "mail", "slack", "unknown", "none", "not slack's", "nobody there"],
)
def test_an_address_that_will_not_do_is_said_and_stops_nobody(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: str, address: str | None,
    said: str,
) -> None:  # fmt: skip
    if address is not None:
        monkeypatch.setenv("ALERTS_ADDRESS", address)
    with caplog.at_level(logging.DEBUG):
        say(ledger, listener(kind, url_env="ALERTS_ADDRESS"), listener("log"))
    assert said in caplog.text
    assert "batch refused: it is <empty> & sad" in caplog.text
    assert "s3cret" not in caplog.text + str(ledger.outcomes())
    assert waits(ledger)


@pytest.mark.parametrize(
    ("kind", "letters"),
    [("webhook", b"2"), ("apprise", b"2"), ("email", b"2"), ("email", b"")],
    ids=["webhook dripping", "apprise dripping", "email dripping", "email silent"],
)
def test_receivers_that_never_come_to_an_end_hold_nobody_up(
    ledger: Ledger, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch, kind: str, letters: bytes
) -> None:
    """One that drips gets round a socket's own timeout; after that it is left alone for a while."""
    monkeypatch.setattr(notifiers, "TIMEOUT_S", 2.5)
    sloth = Sloth(letters=letters)
    scheme = {"webhook": "http", "apprise": "json", "email": "mailto"}[kind]
    slow = listener(kind, url=f"{scheme}://127.0.0.1:{sloth.port}/?from=a@example.org&to=b@example.org")
    began = time.monotonic()
    for number in range(5):
        say(ledger, slow, listener("email", url=mailbox.address), id=f"batch:{number}")
    alerts.deliver_pending(ledger, [slow], grace=NOW)
    took = time.monotonic() - began
    sloth.listener.close()
    assert took < 15
    assert sloth.calls == 1
    assert len(mailbox.letters) == 5
    assert all(waits(ledger, f"batch:{number}") for number in range(5))


def test_a_round_of_delivery_ends_in_time_however_much_waits(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    closed = listener("webhook", url=f"http://127.0.0.1:{port}/")
    for number in range(8):
        say(ledger, closed, id=f"batch:{number}")
    monkeypatch.setattr(alerts, "DELIVERY_LIMIT_S", 0.0)
    assert alerts.deliver_pending(ledger, [listener("log")], grace=NOW) == []
    monkeypatch.setattr(alerts, "DELIVERY_LIMIT_S", 20.0)
    assert len(alerts.deliver_pending(ledger, [listener("log")], grace=NOW)) == 8


def test_a_long_message_is_cut_and_says_where_the_rest_is(ledger: Ledger, service: Service) -> None:
    address = f"json://127.0.0.1:{service.server.server_port}/"
    say(ledger, listener("apprise", url=address), message="x" * 50_000)
    ((_, told),) = service.told
    assert len(told["message"]) < 4000
    assert "the whole is in the ledger: batch:1" in told["message"]
