"""How flows speak with a real model server that asks for keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from tasks import model_server
from tasks.model_server import ModelServerClient, ServerRejected, ServerUnavailable
from tests.ports import free_port
from tests.serving.conftest import ServerHome


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerHome]:
    folder: Path = tmp_path_factory.mktemp("guarded")
    found = ServerHome(folder, free_port())
    found.go_live(found.release().digest)
    (folder / "keys").write_text("rule-one\nrule-two\n")
    found.start(TRIMTAB_ADMIN_KEYS_FILE=str(folder / "keys"), TRIMTAB_PREDICT_KEYS="ask")
    yield found
    found.stop()


def address(place: ServerHome) -> str:
    return f"http://127.0.0.1:{place.port}"


@pytest.mark.parametrize("key", ["rule-one", "rule-two"], ids=["the old key", "the new key"])
def test_with_a_key_of_the_servers_file_releases_are_loaded_and_probed(place: ServerHome, key: str) -> None:
    server = ModelServerClient(address(place), SecretStr(key))
    digest = model_server.live(server)["champion"]
    model_server.load(server, digest)
    assert model_server.probe(server, digest)["ok"]
    assert model_server.wait_for_version(server, 1, within_s=5)
    assert model_server.wait_until_ready(server, within_s=5)


@pytest.mark.parametrize("key", [None, SecretStr("ask"), SecretStr("marked-wrong")], ids=["none", "another", "wrong"])
def test_without_it_the_refusal_says_which_setting_is_missing(place: ServerHome, key: SecretStr | None) -> None:
    server = ModelServerClient(address(place), key)
    with pytest.raises(ServerRejected, match="TRIMTAB_SERVER_KEY") as refused:
        model_server.load(server, "0" * 64)
    assert "marked-wrong" not in f"{refused.value} {server}"


def test_a_server_whose_store_is_away_refuses_nothing(tmp_path: Path) -> None:
    """It has not got the bundle, and nobody can say whether there is one."""
    place = ServerHome(tmp_path, free_port())
    place.go_live(place.release().digest)
    store = {"TRIMTAB_STORE": "s3://nowhere/here", "TRIMTAB_STORE_ENDPOINT": f"http://127.0.0.1:{free_port()}",
             "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}  # fmt: skip
    try:
        place.start(**store)
        with pytest.raises(ServerUnavailable, match="refused with 503"):
            model_server.load(ModelServerClient(address(place)), "0" * 64)
    finally:
        place.kill()
