"""Secrets that come from files."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.settings import ServerSettings
from trimtab.config.run_with_secrets import UnreadableSecret
from trimtab.config.secret_files import secret_fields
from trimtab.config.settings import Settings

LEDGER = "postgresql+psycopg://ledger:marked@db/ledger"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(f"{LEDGER}\n")
    return path


def test_every_secret_of_the_settings_may_come_from_a_file(secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = secret_fields(Settings)
    assert {"ledger_url", "postgres_url", "server_key", "webhook_url"} <= set(fields)
    for name in fields:
        monkeypatch.setenv(f"TRIMTAB_{name.upper()}_FILE", str(secret))
    settings = Settings()
    for name in fields:
        assert getattr(settings, name).get_secret_value() == LEDGER, "without the new line at the file's end"


def test_a_file_holds_several_keys_one_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys").write_text("old-key\nnew-key\n")
    monkeypatch.setenv("TRIMTAB_LEDGER_URL", LEDGER)
    monkeypatch.setenv("TRIMTAB_ADMIN_KEYS_FILE", str(tmp_path / "keys"))
    assert [key.get_secret_value() for key in ServerSettings().admin_keys] == ["old-key", "new-key"]


def test_a_value_wins_over_a_file(secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_LEDGER_URL", "sqlite://")
    monkeypatch.setenv("TRIMTAB_LEDGER_URL_FILE", str(secret))
    found = Settings().ledger_url
    assert found is not None
    assert found.get_secret_value() == "sqlite://"


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff\xfe"], ids=["missing", "empty", "blank", "no text"])
def test_a_file_without_a_secret_is_named(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv("TRIMTAB_LEDGER_URL_FILE", str(path))
    with pytest.raises(UnreadableSecret, match=f"TRIMTAB_LEDGER_URL_FILE names {path}, which"):
        Settings()


def test_what_is_no_secret_does_not_come_from_a_file(secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_WORK_POOL_FILE", str(secret))
    assert Settings().work_pool == "trimtab"
