"""API keys are exchanged while a real server runs: no request of a client that follows the steps in
docs/how-to/keys.md is rejected."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from serving.http.auth import ApiKeys, KeyReloader, MissingKey
from serving.settings import ADMIN, LABELS, PREDICT, KeyFile, key_files
from tests.serving.conftest import ServerHome

ROW = {"distance": 900, "hour": 7, "carrier": "UA"}
LABEL = {"labels": [{"id": "0" * 32, "label": 1}]}


class Clients:
    """One client of each scope that sends requests without a pause, each with its current key."""

    def __init__(self, place: ServerHome, digest: str) -> None:
        self.keys = {scope: f"{scope}-old" for scope in (PREDICT, LABELS, ADMIN)}
        self.seen: Counter[tuple[str, str, int]] = Counter()
        self._place, self._stopping = place, threading.Event()
        self._asks: dict[str, tuple[str, Any]] = {
            PREDICT: ("/predict", ROW), LABELS: ("/labels", LABEL), ADMIN: (f"/releases/{digest}/load", b""),
        }  # fmt: skip

    def _ask(self, scope: str) -> None:
        while not self._stopping.is_set():
            key, (path, content) = self.keys[scope], self._asks[scope]
            self.seen[scope, key, self._place.post(path, content, {"X-API-Key": key})[0]] += 1

    @contextmanager
    def asking(self) -> Iterator[Clients]:
        threads = [threading.Thread(target=self._ask, args=(scope,)) for scope in self.keys]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._stopping.set()
            for thread in threads:
                thread.join()


def held(place: ServerHome) -> dict[str, int]:
    """The number of keys of each scope, from the server's metrics."""
    lines = [line for line in place.get("/metrics")[1].splitlines() if line.startswith("trimtab_keys{")]
    return {line.split('"')[1]: int(float(line.split()[1])) for line in lines}


def write(place: ServerHome, text: str, *, in_place: bool) -> None:
    """Write *text* to each scope's file, in place or by a rename as Kubernetes does."""
    for scope in (PREDICT, LABELS, ADMIN):
        file = place.home / scope
        if in_place:
            file.write_text(text.format(scope))
        else:
            file.with_suffix(".new").write_text(text.format(scope))
            os.replace(file.with_suffix(".new"), file)


@pytest.mark.parametrize("in_place", [True, False], ids=["written in place", "renamed over"])
def test_keys_of_each_scope_are_changed_without_rejecting_a_request(place: ServerHome, in_place: bool) -> None:
    digest = place.release().digest
    place.go_live(digest)
    write(place, "{}-old\n", in_place=in_place)
    files = {f"TRIMTAB_{scope.upper()}_KEYS_FILE": str(place.home / scope) for scope in (PREDICT, LABELS, ADMIN)}
    place.start(TRIMTAB_KEYS_S="0.1", **files)
    with Clients(place, digest).asking() as clients:
        write(place, "{0}-new,{0}-old\n", in_place=in_place)
        place.wait(lambda: held(place) == {PREDICT: 2, LABELS: 2, ADMIN: 2}, "both keys")
        time.sleep(0.2)
        clients.keys = {scope: f"{scope}-new" for scope in clients.keys}
        time.sleep(0.3)  # what was asked with the old ones is answered
        write(place, "{}-new\n", in_place=in_place)
        place.wait(lambda: held(place) == {PREDICT: 1, LABELS: 1, ADMIN: 1}, "the new key alone")
        time.sleep(0.2)
    refused = {seen: times for seen, times in clients.seen.items() if seen[2] != 200}
    assert not refused
    assert {seen[:2] for seen in clients.seen} == {(s, f"{s}-{age}") for s in clients.keys for age in ("old", "new")}
    assert min(clients.seen.values()) > 3
    for scope, path, content in ((PREDICT, "/predict", ROW), (LABELS, "/labels", LABEL), (ADMIN, "/live", None)):
        assert place.post(path, content, {"X-API-Key": f"{scope}-old"})[0] == 401
    assert "-old" not in (place.home / "server.log").read_text()


def opens(keys: ApiKeys, key: str) -> bool:
    try:
        keys.check("/predict", [(b"x-api-key", key.encode())])
    except MissingKey:
        return False
    return True


@pytest.fixture
def followed(tmp_path: Path) -> tuple[Path, ApiKeys, KeyReloader]:
    """A file with a key, and its reloader."""
    file, keys = tmp_path / "keys", ApiKeys(predict=[SecretStr("old")])
    file.write_text("old")
    return file, keys, KeyReloader(keys, {PREDICT: KeyFile("TRIMTAB_PREDICT_KEYS_FILE", file)})


@pytest.mark.parametrize("content", ["", " \n", ",", '["marked', b"\xff\xfe", None], ids=repr)
def test_an_unreadable_key_file_keeps_the_old_keys_and_is_logged_once(
    followed: tuple[Path, ApiKeys, KeyReloader], content: str | bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    file, keys, files = followed
    file.unlink()
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    for _ in range(3):
        files.run_once()
    assert opens(keys, "old")
    assert not opens(keys, "")
    assert "TRIMTAB_PREDICT_KEYS_FILE" in str(files.trouble)
    assert len(caplog.records) == 1
    assert "marked" not in caplog.text
    file.write_text("new")
    files.run_once()
    files.run_once()
    assert files.trouble is None
    assert opens(keys, "new")
    assert not opens(keys, "old")


def test_a_file_that_is_still_being_written_is_not_taken(followed: tuple[Path, ApiKeys, KeyReloader]) -> None:
    file, keys, files = followed
    file.write_text("new,ol")
    files.run_once()
    file.write_text("new,old")
    files.run_once()
    assert opens(keys, "old")
    assert not opens(keys, "ol")
    files.run_once()
    assert opens(keys, "new")
    assert opens(keys, "old")
    assert not opens(keys, "ol")


def test_keys_in_a_variable_are_not_read_from_a_file() -> None:
    environ = {"TRIMTAB_ADMIN_KEYS_FILE": "/a", "TRIMTAB_LABELS_KEYS_FILE": "/l", "TRIMTAB_LABELS_KEYS": "k"}
    assert {scope: str(file.path) for scope, file in key_files(environ).items()} == {ADMIN: "/a"}
