"""How a program is started with secrets from files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trimtab.config import run_with_secrets
from trimtab.config.run_with_secrets import READ, SUFFIX

SCRIPT = Path(run_with_secrets.__file__)
SHOW = ("-c", "import os, sys; print(os.environ['PREFECT_API_AUTH_STRING'], *sys.argv[1:])")
PROGRAM = (sys.executable, *SHOW)
HOW = {
    "as a module": (sys.executable, "-m", run_with_secrets.__name__),
    "as the images do": (sys.executable, "-I", "-S", str(SCRIPT)),
}


def start(how: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    named = {*READ, *(name + SUFFIX for name in READ)}
    kept = {name: value for name, value in os.environ.items() if name not in named}
    environ = {**kept, "PYTHONPATH": str(SCRIPT.parents[2]), **variables}
    return subprocess.run([*HOW[how], *arguments], env=environ, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("how", HOW)
def test_a_program_finds_the_secrets_of_files_in_its_variables(how: str, tmp_path: Path) -> None:
    (tmp_path / "auth").write_text("admin:marked\n")
    done = start(how, *PROGRAM, "--pool", "x", PREFECT_API_AUTH_STRING_FILE=str(tmp_path / "auth"))
    assert (done.returncode, done.stdout) == (0, "admin:marked --pool x\n"), done.stderr


def test_a_value_wins_over_a_file(tmp_path: Path) -> None:
    (tmp_path / "auth").write_text("from a file")
    found = run_with_secrets.with_secrets(
        {"PREFECT_API_AUTH_STRING": "given", "PREFECT_API_AUTH_STRING_FILE": str(tmp_path / "auth")}
    )
    assert found["PREFECT_API_AUTH_STRING"] == "given"


@pytest.mark.parametrize("how", HOW)
def test_a_missing_file_is_told_before_anything_is_started(how: str, tmp_path: Path) -> None:
    lost = {"AWS_SECRET_ACCESS_KEY_FILE": str(tmp_path / "none"), "PREFECT_API_AUTH_STRING": "x"}
    done = start(how, *PROGRAM, **lost)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"{sys.executable} is not started: AWS_SECRET_ACCESS_KEY_FILE names")


def test_without_a_program_it_says_how_it_is_used() -> None:
    done = start("as a module")
    assert done.returncode == 2
    assert "PROGRAM" in done.stderr
