"""A server without keys answers programs of this machine and no web page of another origin."""

from __future__ import annotations

import http.client
from collections.abc import Iterator

import pytest

from tests.ports import free_port
from tests.serving.conftest import ServerHome
from tests.serving.test_failures import ROW
from trimtab.requests.same_origin import ForeignOrigin, PageMedia, check_same_origin

HOST = (b"host", b"127.0.0.1:8000")


@pytest.mark.parametrize(
    "headers",
    [
        [HOST],
        [(b"host", b"localhost:8000"), (b"origin", b"http://localhost:8000")],
        [(b"host", b"[::1]:8000"), (b"content-type", b"application/json")],
        [HOST, (b"content-type", b"application/x-www-form-urlencoded")],
        [HOST, (b"sec-fetch-site", b"same-origin"), (b"origin", b"http://127.0.0.1:8000")],
        [HOST, (b"sec-fetch-site", b"none")],
        [],
    ],
    ids=["program", "own page", "IPv6", "curl", "own page in a browser", "address bar", "HTTP/1.0"],
)
def test_programs_and_own_pages_are_admitted(headers: list[tuple[bytes, bytes]]) -> None:
    check_same_origin(headers, is_safe=False)


@pytest.mark.parametrize(
    "headers",
    [
        [(b"host", b"evil.example:8000")],
        [(b"host", b"localhost.evil.example")],
        [(b"host", b"127.0.0.1.evil.example")],
        [HOST, (b"origin", b"http://evil.example")],
        [HOST, (b"origin", b"null")],
        [HOST, (b"origin", b"http://127.0.0.1:3000")],
        [HOST, (b"origin", b"http://127.0.0.1:8000.evil.example")],
        [HOST, (b"sec-fetch-site", b"cross-site")],
        [HOST, (b"sec-fetch-site", b"same-site")],
    ],
)
def test_another_host_or_origin_is_refused(headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(ForeignOrigin):
        check_same_origin(headers, is_safe=False)


def test_a_link_on_any_page_may_be_followed() -> None:
    check_same_origin([HOST, (b"sec-fetch-site", b"cross-site")], is_safe=True)


@pytest.mark.parametrize("media", [b"text/plain", b"Text/Plain;charset=UTF-8", b"multipart/form-data; boundary=x"])
def test_a_body_that_pages_may_send_without_asking_is_refused(media: bytes) -> None:
    with pytest.raises(PageMedia):
        check_same_origin([HOST, (b"content-type", media)], is_safe=False)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerHome]:
    home = ServerHome(tmp_path_factory.mktemp("server"), free_port())
    try:
        home.go_live(home.release().digest)
        home.start()
        yield home
    finally:
        if home.process is not None:
            home.kill()


@pytest.mark.parametrize("path", ["/predict", "/labels", "/releases/0123456789abcdef/load"])
def test_a_page_of_another_origin_changes_nothing(server: ServerHome, path: str) -> None:
    status, answer = server.post(path, ROW, {"Origin": "http://evil.example", "Content-Type": "text/plain"})
    assert status == 403, answer
    assert "TRIMTAB_ADMIN_KEYS" in answer["error"]["problem"]
    assert server.post(path, ROW, {"Content-Type": "text/plain"})[0] == 415


def test_a_name_that_was_pointed_at_this_machine_reads_nothing(server: ServerHome) -> None:
    for path in ("/live", "/metrics", "/docs"):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        connection.request("GET", path, headers={"Host": f"evil.example:{server.port}"})
        assert connection.getresponse().status == 403, path


def test_with_keys_the_key_decides_and_not_the_origin(tmp_path_factory: pytest.TempPathFactory) -> None:
    home = ServerHome(tmp_path_factory.mktemp("keys"), free_port())
    try:
        home.go_live(home.release().digest)
        home.start(TRIMTAB_ADMIN_KEYS="sesame")
        foreign = {"Origin": "http://partner.example", "Content-Type": "text/plain"}
        assert home.post("/predict", ROW, foreign)[0] == 401
        for scheme in ("Bearer", "bearer", "BEARER"):
            assert home.post("/predict", ROW, {**foreign, "Authorization": f"{scheme} sesame"})[0] == 200, scheme
    finally:
        if home.process is not None:
            home.kill()
