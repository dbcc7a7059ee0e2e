"""What a person reads when a command fails."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from cli.errors import format_error
from stores.batches import NothingLanded
from trimtab.config.settings import Settings
from trimtab.data import periods


def test_a_wrong_setting_is_called_by_its_variable_and_its_value_is_not_printed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRIMTAB_SERVER_PORT", "hunter2")
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert format_error(caught.value).startswith("TRIMTAB_SERVER_PORT: ")
    assert "hunter2" not in format_error(caught.value)


def test_an_error_of_ours_speaks_for_itself() -> None:
    assert (
        format_error(NothingLanded("no batch has landed: run ingest first")) == "no batch has landed: run ingest first"
    )


def test_an_error_that_nobody_foresaw_says_where_it_came_from_and_how_to_see_more() -> None:
    with pytest.raises(AttributeError) as caught:
        periods.Period.parse(None, "month")  # type: ignore[arg-type]  # the point of it
    assert format_error(caught.value).startswith("AttributeError: ")
    assert "(in trimtab/data/periods.py:" in format_error(caught.value)
    assert "TRIMTAB_DEBUG=1" in format_error(caught.value)
