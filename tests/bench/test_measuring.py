"""What the numbers rest on: what wrk sends, and that servers end."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from bench.serving.load import Target, measure
from bench.serving.processes import DidNotRun, free_port, running


class _Recording(BaseHTTPRequestHandler):
    """Keeps the bodies that it gets, and refuses every fourth request."""

    protocol_version = "HTTP/1.1"
    bodies: list[bytes]

    def do_POST(self) -> None:
        self.bodies.append(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(503 if len(self.bodies) % 4 == 0 else 200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:
        """Nothing to say."""


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_every_body_is_sent_whole_and_in_turn_and_what_was_refused_does_not_count(tmp_path: Path) -> None:
    sent = [b'{"row": 1}', b"binary \x00\xff\n with a newline", b"x" * 100_000]
    file = tmp_path / "some.bodies"
    file.write_bytes(b"".join(b"%010d\n" % len(body) + body for body in sent))
    _Recording.bodies = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Recording)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        target = Target(f"http://127.0.0.1:{server.server_port}/", file)
        point = measure(target, psutil.Process(), connections=1, seconds=1)
    finally:
        server.shutdown()
        server.server_close()
    got = _Recording.bodies
    assert len(got) > 10
    first = sent.index(got[0])  # wrk asks for a request before it begins
    assert got == [sent[(first + i) % len(sent)] for i in range(len(got))]
    assert 0 <= len(got) - point.answered - point.refused <= 1  # the last one may have been left unread
    assert abs(point.refused - len(got) / 4) < 2


STUBBORN = """
import http.server, signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(sys.argv[2], "w").write(str(child.pid))
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


def test_a_server_ends_with_what_it_started_also_when_it_does_not_want_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.serving.processes._STOP_S", 0.5)
    port, child = free_port(), tmp_path / "child"
    command = (sys.executable, "-c", STUBBORN, str(port), str(child))
    with (
        pytest.raises(KeyboardInterrupt),
        running("stubborn", command, ready=f"http://127.0.0.1:{port}/", log=tmp_path / "log", env={}, cwd=tmp_path),
    ):
        raise KeyboardInterrupt
    time.sleep(0.2)
    left = psutil.pid_exists(int(child.read_text())) and psutil.Process(int(child.read_text())).status()
    assert left in (False, psutil.STATUS_ZOMBIE)


def test_a_server_that_ends_at_once_is_reported_with_its_last_words(tmp_path: Path) -> None:
    command = (sys.executable, "-c", "raise SystemExit('no model here')")
    with (
        pytest.raises(DidNotRun, match="no model here"),
        running("broken", command, ready="http://127.0.0.1:9/", log=tmp_path / "log", env={}, cwd=tmp_path),
    ):
        pass
