"""Sends an alert to its channels: a webhook (JSON), or Slack, e-mail and the other services of apprise. The ledger
records who received what; see `tasks.alerts`.

Channels are notified in parallel. One that does not accept an alert within `TIMEOUT_S` is skipped for `BACKOFF_S`."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import httpx

from trimtab.config.sections import AlertConfig

log = logging.getLogger("trimtab.alerts")
TIMEOUT_S = 8.0
BACKOFF_S = 60.0
BODY_LIMIT = 3000
_SCHEMES = {"email": ("mailto", "mailtos"), "slack": ("slack", "https")}
# They log the addresses that they ask, and these are secrets.
for _name, _level in {"httpx": logging.WARNING, "urllib3": logging.INFO, "apprise": logging.CRITICAL + 1}.items():
    logging.getLogger(_name).setLevel(_level)

_backoff_until: dict[str, float] = {}  # listeners that timed out, and until when they are skipped


class DeliveryFailed(RuntimeError):
    """A channel did not accept an alert. The text says why and contains no address."""


def channel_name(listener: AlertConfig) -> str:
    """What the ledger calls a listener, whose address may be secret, and may change where it comes from elsewhere."""
    where = listener.url.get_secret_value() if listener.url else listener.url_env or str(listener.url_file or "")
    return f"{listener.kind}-{hashlib.sha256(where.encode()).hexdigest()[:12]}"


def notify_all(listeners: Sequence[AlertConfig], body: Mapping[str, Any]) -> list[bool]:
    """Notify all channels in parallel and return which accepted. Never raises; takes at most a little over
    `TIMEOUT_S`."""
    if any(listener.kind not in ("log", "webhook") for listener in listeners):
        import apprise  # noqa: F401 - its import may take a while, which is not the receiver's fault
    carriers = [_Delivery(listener, body) for listener in listeners]
    deadline = time.monotonic() + TIMEOUT_S
    return [carrier.outcome(deadline) for carrier in carriers]


class _Delivery:
    """The delivery of one alert to one channel."""

    def __init__(self, listener: AlertConfig, body: Mapping[str, Any]) -> None:
        self.listener, self.body, self.name = listener, body, channel_name(listener)
        self.trouble: str | None = "no answer in time"
        self.thread: threading.Thread | None = None
        if listener.kind == "log":
            log.warning("%s: %s", body["kind"], body["message"])
            self.trouble = None
        elif time.monotonic() < _backoff_until.get(self.name, 0.0):
            self.trouble = "it did not answer in time a moment ago"
        else:
            self.thread = threading.Thread(target=self._carry, daemon=True)
            self.thread.start()

    def outcome(self, deadline: float) -> bool:
        """Whether it was taken before *deadline* (monotonic); what went wrong is logged."""
        if self.thread is not None:
            self.thread.join(max(deadline - time.monotonic(), 0.0))
            if self.thread.is_alive():
                _backoff_until[self.name] = time.monotonic() + BACKOFF_S
        if self.trouble is not None:
            kind, id = self.listener.kind, self.body["id"]
            log.error("the alert %s could not be delivered (%s): %s", id, kind, self.trouble)
        return self.trouble is None

    def _carry(self) -> None:
        try:
            send = _post if self.listener.kind == "webhook" else _notify
            send(self.listener, resolve_address(self.listener), self.body)
        except DeliveryFailed as error:
            self.trouble = str(error)
        except Exception as error:  # noqa: BLE001 - a library's surprise is one more reason, and its text may be secret
            self.trouble = type(error).__name__
        else:
            self.trouble = None


def resolve_address(listener: AlertConfig) -> str:
    """Where the listener is, read anew each time, so that a changed secret counts at once. Raises DeliveryFailed."""
    if listener.url is not None:
        return listener.url.get_secret_value()
    if listener.url_env is not None:
        if not (address := os.environ.get(listener.url_env, "").strip()):
            raise DeliveryFailed(f"the variable {listener.url_env} is not set where this flow runs")
        return address
    try:
        address = listener.url_file.read_text(encoding="utf-8").strip() if listener.url_file else ""
    except (OSError, UnicodeDecodeError) as error:
        raise DeliveryFailed(f"{listener.url_file} cannot be read ({type(error).__name__})") from None
    if not address:
        raise DeliveryFailed(f"{listener.url_file} is empty")
    return address


def _post(_: AlertConfig, address: str, body: Mapping[str, Any]) -> None:
    try:
        httpx.post(address, json=body, timeout=5.0).raise_for_status()
    except httpx.HTTPStatusError as error:
        raise DeliveryFailed(f"it answers {error.response.status_code}") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise DeliveryFailed(type(error).__name__) from None


def _notify(listener: AlertConfig, address: str, body: Mapping[str, Any]) -> None:
    import apprise

    allowed = _SCHEMES.get(listener.kind)
    if allowed and _scheme(address) not in allowed:
        raise DeliveryFailed(
            f"its address does not begin like one for kind {listener.kind}: {'://, '.join(allowed)}://"
        )
    asset = apprise.AppriseAsset(app_id="Trimtab", app_desc="Trimtab", app_url="")
    receiver = apprise.Apprise.instantiate(address, asset=asset, suppress_exceptions=True)
    if not isinstance(receiver, apprise.NotifyBase):
        raise DeliveryFailed("its address is none that apprise knows")
    receiver.socket_connect_timeout = receiver.socket_read_timeout = 5.0
    everybody = apprise.Apprise(asset=asset)
    everybody.add(receiver)
    if not everybody.notify(
        title=f"Trimtab: {body['kind']}", body=_message_text(body), notify_type=apprise.NotifyType.WARNING,
        body_format=apprise.NotifyFormat.TEXT,
    ):  # fmt: skip
        raise DeliveryFailed("it was refused, or cannot be reached")


def _scheme(address: str) -> str:
    with suppress(ValueError):
        return urlsplit(address).scheme.lower()
    return ""


def _message_text(body: Mapping[str, Any]) -> str:
    """The alert as people read it."""
    facts = [f"{name}: {value}" for name, value in body["evidence"].items()]
    text = "\n".join([str(body["message"]), "", *facts, f"alert: {body['id']}"])
    return text if len(text) <= BODY_LIMIT else f"{text[:BODY_LIMIT]}… (the whole is in the ledger: {body['id']})"
