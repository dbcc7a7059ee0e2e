"""Small releases and a real model server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from stores.ledger import Ledger
from stores.ledger.migrations import migrate
from stores.releases.bundle import Bundle
from tests.ports import free_port
from tests.serving.sample_project import tiny_bundle
from tests.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class ServerHome:
    """A state folder with releases, a ledger and, once started, a model server."""

    home: Path
    port: int
    env: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def ledger(self) -> Ledger:
        return Ledger(f"sqlite:///{self.home}/ledger.db")

    @property
    def telemetry(self) -> Path:
        return self.home / "telemetry"

    def release(self, **options: Any) -> Bundle:
        bundle = tiny_bundle(self.home / "releases", **options)
        manifest = bundle.manifest
        migrate(self.ledger)
        self.ledger.record_release(
            bundle.digest,
            run_id=manifest.run_id,
            model_name=manifest.model_name,
            model_version=manifest.model_version,
            manifest=json.loads(manifest.canonical()),
        )
        return bundle

    def go_live(
        self, digest: str, *, challenger: str | None = None, share: float = 0.0, rollout: str | None = None
    ) -> int:
        live = self.ledger.live()
        return self.ledger.switch(
            digest,
            expected=live.version if live else 0,
            move="promote",
            reason="test",
            actor="test",
            challenger=challenger,
            challenger_share=share,
            rollout=rollout,
        ).version

    def make_live(self, digest: str, **rollout: Any) -> None:
        """Switch the ledger, and wait for the server to follow."""
        version = self.go_live(digest, **rollout)
        self.wait(lambda: self.get("/live")[1]["ledger_version"] == version, "the swap")

    def start(self, *, wait_for: str = "/ready", **env: str) -> None:
        full = {**os.environ, "TRIMTAB_HOME": str(self.home), "TRIMTAB_SERVER_PORT": str(self.port)}
        full |= {"TRIMTAB_LEDGER_URL": f"sqlite:///{self.home}/ledger.db", **self.env, **env}
        log = (self.home / "server.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "serving"], cwd=ROOT, env=full, stderr=log, stdout=log, start_new_session=True
        )
        if wait_for:
            self.wait(lambda: self.get(wait_for)[0] == 200, f"{wait_for} is 200")

    def wait(self, look: Callable[[], object], what: str, *, within_s: float = 20) -> None:
        """Until it is so; fails with the end of the log, at once when the process has ended."""
        eventually(look, what, within_s=within_s, every_s=0.05, said=self.log_end, lost=self.has_ended)

    def log_end(self) -> str:
        return (self.home / "server.log").read_text()[-3000:]

    def has_ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def get(self, path: str, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        return self._send(urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=headers or {}))

    def post(self, path: str, content: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        return self._send(urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body, headers or {}))

    def _send(self, request: urllib.request.Request) -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                status, body = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, body = error.code, error.read()
        return status, json.loads(body) if body[:1] in (b"{", b"[") else body.decode()

    def kill(self) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process = None

    def stop(self) -> int | None:
        if self.process is None:
            return None
        self.process.terminate()
        code = self.process.wait(timeout=15)
        self.process = None
        return code


@pytest.fixture
def place(tmp_path: Path) -> Iterator[ServerHome]:
    """An empty state folder; a server that the test starts in it is stopped."""
    there = ServerHome(tmp_path, free_port())
    yield there
    if there.process is not None:
        there.kill()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerHome]:
    """A server with a live release; every test leaves a working one."""
    place = ServerHome(tmp_path_factory.mktemp("server"), free_port())
    try:
        place.go_live(place.release().digest)
        place.start()
        yield place
    finally:
        if place.process is not None:
            place.kill()
