"""How the programs in infra/ speak to Compose. Needs nothing but Python; TRIMTAB_DOCKER names another docker than the
first in PATH, and COMPOSE_PROJECT_NAME another place than `trimtab`, as for Compose itself."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO

COMPOSE = Path(__file__).resolve().parent / "compose.yaml"


class Failed(Exception):
    """Compose did not do it; the text is the end of what it said."""


def compose(*words: str, stdin: IO[bytes] | None = None, stdout: IO[bytes] | None = None, quiet: bool = True) -> str:
    """Run `docker compose` with *words*; what it printed, unless *stdout* takes it. Raises Failed."""
    command: Sequence[str] = (os.environ.get("TRIMTAB_DOCKER", "docker"), "compose", "--file", str(COMPOSE), *words)
    try:
        done = subprocess.run(
            command, stdin=stdin or subprocess.DEVNULL, stdout=stdout or subprocess.PIPE,
            stderr=subprocess.PIPE if quiet else None, check=False,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise Failed(f"there is no {command[0]}: install Docker, or name it in TRIMTAB_DOCKER") from error
    if done.returncode != 0:
        said = " / ".join((done.stderr or b"").decode(errors="replace").strip().splitlines()[-3:])
        raise Failed(f"docker compose {' '.join(words[:4])} ended with {done.returncode}: {said}")
    return (done.stdout or b"").decode(errors="replace")
