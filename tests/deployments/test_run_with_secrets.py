"""Starting a module with secrets from files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from trimtab.config.secret_files import FOREIGN

ROOT = Path(__file__).parents[2]
MODULE = "import os, sys\nif __name__ == '__main__': print(os.environ['PREFECT_API_AUTH_STRING'], *sys.argv[1:])"


def start(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    (folder / "shown.py").write_text(MODULE)
    mine = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    environ = {**mine, "PYTHONPATH": f"{ROOT}:{folder}", **variables}
    command = [sys.executable, "-m", "deployments.workers.run_with_secrets", *arguments]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)


def test_a_module_finds_the_secrets_of_files_in_its_variables(tmp_path: Path) -> None:
    (tmp_path / "auth").write_text("admin:marked\n")
    done = start(tmp_path, "shown", "--pool", "x", PREFECT_API_AUTH_STRING_FILE=str(tmp_path / "auth"))
    assert (done.returncode, done.stdout) == (0, "admin:marked --pool x\n"), done.stderr


def test_a_missing_file_is_told_before_anything_is_started(tmp_path: Path) -> None:
    done = start(tmp_path, "shown", AWS_SECRET_ACCESS_KEY_FILE=str(tmp_path / "none"), PREFECT_API_AUTH_STRING="x")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("shown is not started: AWS_SECRET_ACCESS_KEY_FILE names")


def test_without_a_module_it_says_how_it_is_used(tmp_path: Path) -> None:
    done = start(tmp_path)
    assert done.returncode == 2
    assert "MODULE" in done.stderr
