"""What Trimtab writes into a project is invisible to git and cannot be changed by other users, whatever the umask."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CODE = """
import os, sys
from pathlib import Path
import pandas as pd
from stores import batches
from tasks import dataset
project = Path(sys.argv[1])
dataset.init(project)
batches.land(project, "2013-03", pd.DataFrame({"x": [1]}))
dataset.save(project, message="first")
"""


def made(project: Path, umask: int) -> None:
    project.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-c", CODE, str(project)], cwd=ROOT, umask=umask, check=True, capture_output=True)


def git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("inside", [".", "services/model"], ids=["a repository", "a folder of a larger one"])
def test_git_would_add_no_data_and_nothing_of_dvcs_own(tmp_path: Path, inside: str) -> None:
    git(tmp_path, "init", "--quiet")
    made(tmp_path / inside, 0o022)
    listed = git(tmp_path, "add", "--dry-run", ".")
    assert "data.dvc" in listed
    assert not [line for line in listed.splitlines() if "/cache/" in line or "/tmp/" in line or "landed" in line]


def test_what_a_gitignore_has_is_kept(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("*.log")
    made(tmp_path, 0o022)
    assert (tmp_path / ".gitignore").read_text() == "*.log\n/data\n"


def test_the_folder_that_dvc_shares_among_users_is_shut(tmp_path: Path) -> None:
    made(tmp_path, 0o000)
    assert stat.S_IMODE((tmp_path / ".dvc" / "tmp" / "site").stat().st_mode) == 0o700


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o077])
def test_the_command_makes_nothing_that_others_can_change(tmp_path: Path, umask: int) -> None:
    code = """
import sys
from pathlib import Path
from cli.main import app, main
@app.command()
def make(path: str) -> None:
    Path(path).mkdir()
    Path(path, "f").touch()
sys.argv = ["trimtab", "make", sys.argv[1]]
main()
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "made")], cwd=ROOT, umask=umask, check=True)
    for path in (tmp_path / "made", tmp_path / "made" / "f"):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o022, oct(path.stat().st_mode)
        assert os.access(path, os.R_OK)
