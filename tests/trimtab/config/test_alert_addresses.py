"""Addresses of those who hear alerts: the plain ones may be in params.yaml, those that hold a secret are refused there
with what to do, and without being shown."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from trimtab.config import params
from trimtab.config.secret_detection import find_secret

ROOT = Path(__file__).resolve().parents[3]


def load(folder: Path, alert: dict[str, str]) -> params.Params:
    whole = yaml.safe_load((ROOT / "params.yaml").read_text())
    (folder / "params.yaml").write_text(yaml.safe_dump({**whole, "alerts": [{"kind": "log"}, alert]}, sort_keys=False))
    return params.load(folder)


@pytest.mark.parametrize(
    "alert",
    [
        {"kind": "webhook", "url": "http://127.0.0.1:9000/alerts"},
        {"kind": "webhook", "url": "https://alerts.internal.example/v1/model-alerts?team=flights"},
        {"kind": "email", "url": "mailto://smtp.example.org:25?from=trimtab@example.org&to=ml-oncall-2024@example.org"},
        {"kind": "slack", "url_env": "ALERTS_SLACK"},
        {"kind": "apprise", "url_file": "/run/secrets/pager"},
    ],
    ids=lambda a: str(a["kind"]),
)
def test_a_plain_address_or_where_a_secret_one_is_may_be_in_params(tmp_path: Path, alert: dict[str, str]) -> None:
    assert load(tmp_path, alert).alerts[1].kind == alert["kind"]


@pytest.mark.parametrize(
    ("alert", "said"),
    [
        ({"kind": "webhook", "url": "https://me:s3cret@example.org/"}, "a user or a password"),
        ({"kind": "webhook", "url": "https://s3cret@example.org/"}, "a user or a password"),
        ({"kind": "webhook", "url": "https://example.org/?token=s3cret"}, "a secret in its query (token)"),
        ({"kind": "webhook", "url": "https://example.org/?q=s3cretTIiajkdnlazkcOXrI"}, "a secret in its query (q)"),
        ({"kind": "webhook", "url": "https://example.org/T1JJ3T3L2/s3cretTIiajkdnlazkcOXrI"}, "a token in its path"),
        ({"kind": "webhook", "url": "https://example.org/5d41402a-s3cret-bc4b"}, "a token in its path"),
        ({"kind": "email", "url": "mailtos://me:s3cret@smtp.example.org"}, "a user or a password"),
        ({"kind": "slack", "url": "slack://s3cret/b/c"}, "as all addresses of this kind do"),
        ({"kind": "apprise", "url": "ntfys://s3cret"}, "as all addresses of this kind do"),
        ({"kind": "webhook", "url": "http://[s3cret"}, "not an address"),
    ],
)  # fmt: skip
def test_a_secret_in_params_is_refused_and_not_shown(tmp_path: Path, alert: dict[str, str], said: str) -> None:
    with pytest.raises(params.ParamsError) as caught:
        load(tmp_path, alert)
    told = str(caught.value)
    lines = (tmp_path / "params.yaml").read_text().splitlines()
    line = next(number for number, text in enumerate(lines, 1) if "s3cret" in text)
    assert told.startswith(f"{tmp_path / 'params.yaml'}:{line}: alerts.1.url: holds ")
    assert said in told
    assert "url_env" in told
    assert "url_file" in told
    assert "s3cret" not in told


@pytest.mark.parametrize(
    ("alert", "said"),
    [
        ({"kind": "slack"}, "needs one of url, url_env and url_file"),
        ({"kind": "webhook", "url": "http://127.0.0.1/", "url_env": "X"}, "needs one of url, url_env and url_file"),
        ({"kind": "log", "url_env": "X"}, "log has no address"),
        ({"kind": "email", "url_file": "secrets/mail"}, "absolute path"),
        ({"kind": "email", "url_env": "not a name"}, "should match pattern"),
    ],
)
def test_an_address_has_one_place(tmp_path: Path, alert: dict[str, str], said: str) -> None:
    with pytest.raises(params.ParamsError, match=said):
        load(tmp_path, alert)


def test_words_are_no_secrets() -> None:
    assert find_secret("https://hooks.example.org/teams/flights/alertmanager/v2") is None
