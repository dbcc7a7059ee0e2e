"""Which key opens which path."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from serving.app import ModelServer
from serving.settings import InsecureSettings, ServerSettings, check_exposure
from tests.ports import free_port
from tests.serving.asgi import server_of, together
from tests.serving.conftest import ServerHome
from trimtab.config.settings import Settings

ROW = {"distance": 900, "hour": 7, "carrier": "UA"}
LABEL = {"labels": [{"id": "0" * 32, "label": 1}]}
NOWHERE = f"/releases/{'0' * 64}/load"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServer]:
    """A server with keys of every scope; two for predictions, as during an exchange."""
    place = ServerHome(tmp_path_factory.mktemp("keys"), free_port())
    place.go_live(place.release().digest)
    made = server_of(
        place,
        predict_keys=(SecretStr("ask-old"), SecretStr("ask-new")),
        labels_keys=(SecretStr("tell"),),
        admin_keys=(SecretStr("rule"),),
    )
    yield made
    made.recorder.close()
    made.guard.close()


@pytest.mark.parametrize(
    ("key", "predict", "labels", "load", "live"),
    [
        ("ask-old", 200, 403, 403, 200),
        ("ask-new", 200, 403, 403, 200),
        ("tell", 403, 200, 403, 200),
        ("rule", 200, 200, 404, 200),
        ("rul", 401, 401, 401, 401),
        ("", 401, 401, 401, 401),
        (None, 401, 401, 401, 401),
    ],
)
def test_a_key_opens_what_its_scope_says(
    guarded: ModelServer, key: str | None, predict: int, labels: int, load: int, live: int
) -> None:
    for header in ("X-API-Key", "Authorization"):
        sent = {} if key is None else {header: key if header == "X-API-Key" else f"Bearer {key}"}

        def status(path: str, content: Any = b"", method: str = "POST", sent: Any = sent) -> int:
            return together(guarded, path, [content], headers=sent, method=method)[0][0]

        assert status("/predict", ROW) == predict
        assert status("/labels", LABEL) == labels
        assert status(NOWHERE) == load
        assert status("/live", method="GET") == live
        assert status("/docs", method="GET") == live
        assert status("/health", method="GET") == 200
        assert status("/ready", method="GET") == 200
        assert status("/metrics", method="GET") == 200


@pytest.mark.parametrize(
    ("text", "keys"),
    [("sesame", ["sesame"]), (" sesame , two,", ["sesame", "two"]), ('["a,b", "c"]', ["a,b", "c"]), ("", [])],
)
def test_keys_are_read_as_a_list_or_with_commas(monkeypatch: pytest.MonkeyPatch, text: str, keys: list[str]) -> None:
    monkeypatch.setenv("TRIMTAB_PREDICT_KEYS", text)
    read = ServerSettings(ledger_url=SecretStr("sqlite://"))
    assert [key.get_secret_value() for key in read.predict_keys] == keys
    assert "sesame" not in repr(read)


def test_an_invalid_list_of_keys_is_rejected_without_showing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_ADMIN_KEYS", '["secret')
    with pytest.raises(ValidationError) as caught:
        ServerSettings(ledger_url=SecretStr("sqlite://"))
    assert "secret" not in str([e["msg"] for e in caught.value.errors(include_input=False, include_context=False)])


def test_beyond_loopback_an_admin_key_is_needed() -> None:
    url = SecretStr("sqlite://")
    with pytest.raises(InsecureSettings, match="TRIMTAB_ADMIN_KEYS"):
        check_exposure(Settings(host="0.0.0.0"), ServerSettings(ledger_url=url, predict_keys=(SecretStr("k"),)))
    check_exposure(Settings(host="0.0.0.0"), ServerSettings(ledger_url=url, admin_keys=(SecretStr("k"),)))
