"""The code and package versions that something was made with, from git and the lock."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from typing import Any

CODE = Path(__file__).resolve().parent.parent
DIFF_LIMIT = 200_000


def lineage(project: Path, *, pointer: str, seed: int) -> dict[str, Any]:
    """What made a candidate, beside its params: commits of the project and of the code (with the differences when a
    tree was dirty), the text of `data.dvc`, the lock's sha256 and the seed. Folders without git give None."""
    facts: dict[str, Any] = {"data_dvc": pointer, "seed": seed, "lock": lock_digest()}
    for name, folder in (("project", project), ("code", CODE)):
        facts[f"{name}_commit"] = _git(folder, "rev-parse", "HEAD")
        if diff := _git(folder, "diff", "HEAD", "--", ".", ":!data.dvc"):
            facts[f"{name}_diff"] = diff[:DIFF_LIMIT]
    return facts


def code_state() -> str:
    """A name for the code as it is: commit and, for a dirty tree, a digest of the difference."""
    diff = _git(CODE, "diff", "HEAD", "--", "*.py") or ""
    changed = hashlib.sha256(diff.encode()).hexdigest()[:8] if diff else ""
    return f"{_git(CODE, 'rev-parse', 'HEAD') or lock_digest()}+{changed}"


def lock_digest() -> str | None:
    """The sha256 of requirements.lock: which versions of everything; None when there is no lock."""
    path = CODE / "requirements.lock"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None


def _git(folder: Path, *args: str) -> str | None:
    """What git prints; None where there is no git, or it fails. Bytes that are no UTF-8 are replaced."""
    command = ["git", "-C", str(folder), *args]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
