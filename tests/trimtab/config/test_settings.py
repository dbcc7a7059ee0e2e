"""Settings that are written in more than one way, and those that are wrong."""

from __future__ import annotations

import pytest

from trimtab.config.settings import Settings, settings_to_stop


@pytest.mark.parametrize("written", ["a.B,c.D", '["a.B", "c.D"]', " a.B , c.D "])
def test_a_list_of_words_is_written_with_commas_or_as_json(monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    monkeypatch.setenv("TRIMTAB_TRUSTED_TYPES", written)
    assert Settings().trusted_types == ("a.B", "c.D")


@pytest.mark.parametrize(
    ("variable", "value"),
    [("TRIMTAB_PREFECT_PORT", "many"), ("TRIMTAB_POOL_NETWORKS", "a,b"), ("TRIMTAB_WORKER", "lukewarm")],
)
def test_a_stack_is_found_and_stopped_whatever_the_settings_are(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv("TRIMTAB_HOME", "/somewhere/state")
    monkeypatch.setenv(variable, value)
    settings, trouble = settings_to_stop()
    assert str(settings.state) == "/somewhere/state" and settings.prefect_port == 4200
    assert trouble is not None and variable.removeprefix("TRIMTAB_").lower() in trouble.lower()


def test_right_settings_are_used_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_PREFECT_PORT", "4321")
    settings, trouble = settings_to_stop()
    assert (settings.prefect_port, trouble) == (4321, None)


def test_an_ipv6_address_stands_in_brackets_in_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_HOST", "::1")
    assert Settings().model_server == "http://[::1]:8000"
    assert Settings().prefect_api == "http://[::1]:4200/api"
