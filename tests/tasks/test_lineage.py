"""What git says of the code goes into a candidate's record, and no state of git keeps one from being made."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tasks import lineage


def facts(project: Path) -> dict[str, object]:
    return lineage.lineage(project, pointer="outs: []", seed=1)


def test_a_difference_that_is_no_utf_8_is_recorded_all_the_same(tmp_path: Path) -> None:
    who = ["-c", "user.name=t", "-c", "user.email=t@localhost"]

    def git(*arguments: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True, capture_output=True)

    notes = tmp_path / "notes.txt"
    notes.write_text("plain")
    git("init", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "-m", "first")
    notes.write_bytes("größe".encode("latin-1"))
    assert "notes.txt" in str(facts(tmp_path)["project_diff"])


def test_without_git_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert facts(tmp_path)["project_commit"] is None
    assert lineage.code_state().startswith(str(lineage.lock_digest()))
