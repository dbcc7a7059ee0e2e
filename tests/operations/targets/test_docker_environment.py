"""The environment of model servers in containers."""

from __future__ import annotations

import pytest

from operations.targets.contract import TargetRejected
from operations.targets.docker import server_environment


def test_names_of_files_and_plain_values_are_passed_on() -> None:
    pairs = ("TRIMTAB_LEDGER_URL_FILE=/run/secrets/ledger", "TRIMTAB_MAX_ROWS=100", "AWS_REGION=a=b")
    assert server_environment(pairs) == {
        "TRIMTAB_LEDGER_URL_FILE": "/run/secrets/ledger", "TRIMTAB_MAX_ROWS": "100", "AWS_REGION": "a=b",
    }  # fmt: skip


@pytest.mark.parametrize(
    "name", ["TRIMTAB_LEDGER_URL", "TRIMTAB_ADMIN_KEYS", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"]
)
def test_a_secret_by_value_is_refused_without_being_repeated(name: str) -> None:
    with pytest.raises(TargetRejected, match=f"{name}_FILE") as refused:
        server_environment((f"{name}=marked-8",))
    assert "marked-8" not in str(refused.value)


def test_a_text_that_is_no_pair_is_an_error() -> None:
    with pytest.raises(TargetRejected, match="'TRIMTAB_MAX_ROWS' is not NAME=value"):
        server_environment(("TRIMTAB_MAX_ROWS",))
