"""The OpenAPI description is right: the server handles valid and invalid requests that schemathesis makes from it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.serving.conftest import ServerHome

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,"
    "negative_data_rejection,unsupported_method"
)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerHome]:
    """A server in the middle of a rollout."""
    place = ServerHome(tmp_path_factory.mktemp("openapi"), free_port())
    try:
        place.go_live(
            place.release().digest, challenger=place.release(version=2, seed=1).digest, share=0.5, rollout="r"
        )
        place.start()
        yield place
    finally:
        if place.process is not None:
            place.kill()


def test_no_request_from_the_openapi_description_breaks_the_server(running: ServerHome, tmp_path: Path) -> None:
    command = [
        *(str(Path(sys.executable).with_name("schemathesis")), "run"),
        *(f"http://127.0.0.1:{running.port}/openapi.json", "--checks", CHECKS, "--max-examples", "25"),
        *("--phases", "examples,coverage,fuzzing", "--generation-deterministic", "--continue-on-failure"),
        *("--no-color", "--warnings", "off"),
    ]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stdout[-4000:]
    assert "unexpected" not in (running.home / "server.log").read_text()
    assert running.get("/ready")[0] == 200
