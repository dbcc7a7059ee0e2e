"""What is learned from lives of the server that ended badly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from serving.models.crash_guard import Life
from tests.serving.conftest import ROOT

DEADLY, OTHER = "d" * 64, "0" * 64


def die(folder: Path, act: str) -> None:
    """A life that says it is up to *act*, and is killed."""
    script = f"""
import os, signal
from pathlib import Path
from serving.models.crash_guard import Life
life = Life(Path({str(folder)!r}))
life.challenger({DEADLY!r} if {act!r} != "load" else None, 7)
if {act!r} == "ask":
    entered = life.asking()
    entered.__enter__()
if {act!r} == "load":
    entered = life.loading({DEADLY!r}, 7)
    entered.__enter__()
if {act!r} == "end":
    life.close()
os.kill(os.getpid(), signal.SIGKILL)
"""
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=os.environ, check=False)
    assert run.returncode == -signal.SIGKILL


@pytest.mark.parametrize(("act", "deaths"), [("ask", 2), ("load", 2), ("wait", 4)])
def test_a_challenger_is_refused_after_deaths_that_look_like_its_own(tmp_path: Path, act: str, deaths: int) -> None:
    for _ in range(deaths):
        life = Life(tmp_path)
        assert life.refusal(DEADLY, 7) is None
        life.close()
        die(tmp_path, act)
    life = Life(tmp_path)
    assert "died" in (life.refusal(DEADLY, 7) or "")
    assert life.refusal(OTHER, 7) is None
    assert life.refusal(DEADLY, 8) is None
    life.challenger(None, 7)
    assert "died" in (life.refusal(DEADLY, 7) or "")
    life.challenger(None, 8)
    assert life.refusal(DEADLY, 7) is None
    life.close()
    assert not list(tmp_path.iterdir())


def test_lives_that_end_well_and_lives_that_go_on_are_no_deaths(tmp_path: Path) -> None:
    with ExitStack() as going_on:
        for _ in range(3):
            life = Life(tmp_path)
            life.challenger(DEADLY, 7)
            going_on.enter_context(life.asking())
        for _ in range(2):
            die(tmp_path, "end")
        assert Life(tmp_path).refusal(DEADLY, 7) is None


def test_a_folder_that_cannot_be_written_refuses_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    life = Life(tmp_path / "file" / "lives")
    life.challenger(DEADLY, 7)
    with life.asking(), life.loading(DEADLY, 7):
        assert life.refusal(DEADLY, 7) is None
    life.close()
