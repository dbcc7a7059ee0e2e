"""Challengers that crashed the server are refused by the next process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from serving.models.crash_guard import CrashGuard
from tests.serving.conftest import ROOT

DEADLY, OTHER = "d" * 64, "0" * 64


def die(folder: Path, act: str) -> None:
    """A process that marks *act* and is killed."""
    script = f"""
import os, signal
from pathlib import Path
from serving.models.crash_guard import CrashGuard
guard = CrashGuard(Path({str(folder)!r}))
guard.set_challenger({DEADLY!r} if {act!r} != "load" else None, 7)
if {act!r} == "ask":
    entered = guard.scoring()
    entered.__enter__()
if {act!r} == "load":
    entered = guard.loading({DEADLY!r}, 7)
    entered.__enter__()
if {act!r} == "end":
    guard.close()
os.kill(os.getpid(), signal.SIGKILL)
"""
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=os.environ, check=False)
    assert run.returncode == -signal.SIGKILL


@pytest.mark.parametrize(("act", "deaths"), [("ask", 2), ("load", 2), ("wait", 4)])
def test_a_challenger_is_refused_after_crashes_that_it_probably_caused(tmp_path: Path, act: str, deaths: int) -> None:
    for _ in range(deaths):
        guard = CrashGuard(tmp_path)
        assert guard.refusal_reason(DEADLY, 7) is None
        guard.close()
        die(tmp_path, act)
    guard = CrashGuard(tmp_path)
    assert "crashed" in (guard.refusal_reason(DEADLY, 7) or "")
    assert guard.refusal_reason(OTHER, 7) is None
    assert guard.refusal_reason(DEADLY, 8) is None
    guard.set_challenger(None, 7)
    assert "crashed" in (guard.refusal_reason(DEADLY, 7) or "")
    guard.set_challenger(None, 8)
    assert guard.refusal_reason(DEADLY, 7) is None
    guard.close()
    assert not list(tmp_path.iterdir())


def test_processes_that_stop_normally_or_still_run_are_not_crashes(tmp_path: Path) -> None:
    with ExitStack() as going_on:
        for _ in range(3):
            guard = CrashGuard(tmp_path)
            guard.set_challenger(DEADLY, 7)
            going_on.enter_context(guard.scoring())
        for _ in range(2):
            die(tmp_path, "end")
        assert CrashGuard(tmp_path).refusal_reason(DEADLY, 7) is None


def test_no_challenger_is_refused_when_the_folder_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    guard = CrashGuard(tmp_path / "file" / "lives")
    guard.set_challenger(DEADLY, 7)
    with guard.scoring(), guard.loading(DEADLY, 7):
        assert guard.refusal_reason(DEADLY, 7) is None
    guard.close()
