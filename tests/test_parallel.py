"""A run that is split: tests that share a server meet in one process, whose ports are its own, and leave nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.ports import free_block, free_ports

ROOT = Path(__file__).resolve().parent.parent
SHARED = """
import os, pytest

@pytest.fixture(scope="session")
def stack(): return os.environ["PYTEST_XDIST_WORKER"]

@pytest.mark.parametrize("number", range(4))
def test_shares(stack, number): print("in", stack)

@pytest.mark.parametrize("number", range(4))
def test_alone(number): print("in", os.environ["PYTEST_XDIST_WORKER"])
"""
LEAVES = """
import os, subprocess, sys, time
from pathlib import Path

def test_one():
    left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    Path("left").write_text(str(left.pid))
    time.sleep(float(os.environ["TAKES_S"]))

def test_other(): pass
"""


def started(folder: Path, modules: dict[str, str], **env: str) -> subprocess.Popen[str]:
    """A run of its own in *folder*, as `make test` starts it."""
    for name, text in modules.items():
        (folder / name).write_text(text)
    (folder / "pytest.ini").write_text("[pytest]\n")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    given = {**inherited, **env, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [
        sys.executable, "-m", "pytest", "-p", "xdist.plugin", "-p", "tests.parallel", "-n", "2", "--dist", "loadscope",
        "--no-loadscope-reorder", "-v",
    ]  # fmt: skip
    return subprocess.Popen(command, cwd=folder, text=True, env=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_tests_that_share_a_server_run_in_one_process_and_begin_first(tmp_path: Path) -> None:
    run = started(tmp_path, {"test_a.py": SHARED, "test_b.py": SHARED})
    said = run.communicate(timeout=100)[0]
    assert run.returncode == 0, said
    where = [line.split() for line in said.splitlines() if " PASSED " in line]
    assert len(where) == 16
    assert len({words[0] for words in where if "test_shares" in words[-1]}) == 1
    assert all("@" not in words[-1] for words in where), "the name by which a test can be run again"
    shares = next(words[0] for words in where if "test_shares" in words[-1])
    assert "test_shares" in next(words[-1] for words in where if words[0] == shares)


@pytest.fixture
def ended(tmp_path: Path) -> Iterator[None]:
    yield
    if (tmp_path / "left").exists() and psutil.pid_exists(pid := int((tmp_path / "left").read_text())):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.usefixtures("ended")
@pytest.mark.parametrize("interrupted", [False, True], ids=["ended", "interrupted"])
def test_what_a_process_of_the_run_has_left_is_stopped_and_named(tmp_path: Path, interrupted: bool) -> None:
    run = started(tmp_path, {"test_a.py": LEAVES}, TAKES_S="60" if interrupted else "0")
    if interrupted:
        end = time.monotonic() + 60
        while not (tmp_path / "left").exists() or not (tmp_path / "left").read_text():
            assert time.monotonic() < end and run.poll() is None
            time.sleep(0.1)
        run.send_signal(signal.SIGINT)
    said = run.communicate(timeout=100)[0]
    pid = int((tmp_path / "left").read_text())
    assert f"stopped what was left running: {pid} " in said
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_no_port_is_given_to_two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    given: set[int] = set()
    for number in range(4):
        monkeypatch.setenv("PYTEST_XDIST_WORKER", f"gw{number}")
        ports = free_ports(20, beside=10_000)
        mine = {*ports, *(port + 10_000 for port in ports)}
        assert len(mine) == 40
        assert not mine & given
        given |= mine
        first = free_block(10)
        assert not set(range(first, first + 10)) & given
