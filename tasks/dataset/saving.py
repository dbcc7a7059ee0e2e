"""Versions all of `data/` as `dvc add` does, and commits `data.dvc` to the project's git."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tasks.dataset.reading import current
from tasks.dataset.repository import DatasetError, DatasetVersion, Remote, open_repository, retry_locked


def save(project: Path, *, message: str, commit_it: bool = False, remote: Remote | None = None) -> DatasetVersion:
    """Version `data/` as it is now and push it; with *commit_it*, commit `data.dvc` in the project's git.

    Safe to repeat, and while others do the same: DVC's lock is waited for.
    """

    def add() -> None:
        with open_repository(project, remote, with_git=True) as repo:
            repo.add(str(project / "data"))
            # At once: DVC forgets what was never pushed when a newer version is added.
            repo.push(targets=[str(project / "data.dvc")])

    retry_locked(add)
    version = current(project)
    if not commit_it:
        return version
    return DatasetVersion(version.hash, version.pointer, commit(project, message))


def commit(project: Path, message: str) -> str:
    """Commit `data.dvc` alone; the commit that holds it, new or old."""
    git = ["git", "-C", str(project)]
    who = [] if _run([*git, "config", "user.email"]).stdout else [
        "-c", "user.name=trimtab", "-c", "user.email=trimtab@localhost",
    ]  # fmt: skip
    added = _run([*git, "add", "--", "data.dvc"])
    if added.returncode:
        raise DatasetError(f"data.dvc cannot be committed in {project}: {added.stderr.strip()}")
    if _run([*git, "diff", "--cached", "--quiet", "--", "data.dvc"]).returncode:
        done = _run([*git, *who, "commit", "--quiet", "--no-verify", "-m", message, "--", "data.dvc"])
        if done.returncode and "nothing to commit" not in done.stdout:
            raise DatasetError(f"data.dvc could not be committed in {project}: {done.stderr or done.stdout}")
    return _run([*git, "log", "-1", "--format=%H", "--", "data.dvc"]).stdout.strip()


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)
