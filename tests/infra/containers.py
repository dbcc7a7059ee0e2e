"""Docker as the tests use it: found or skipped, images built once, containers that are always removed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Debian's client has BuildKit; another one that comes first in PATH may lack it.
DOCKER = "/usr/bin/docker" if Path("/usr/bin/docker").exists() else "docker"
HARDENED = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")


def engine() -> None:
    """Skip the test where no engine runs; in CI it fails."""
    found = shutil.which(DOCKER)
    runs = found and subprocess.run([found, "version"], capture_output=True, check=False).returncode == 0
    if not runs:
        why = "no Docker engine runs here: .ci/engine start makes one (as root)"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)


def build(*names: str, into: Path) -> dict[str, Any]:
    """Build images as people do; what build.py writes down of them. What has not changed comes from the builder's
    cache."""
    command = [sys.executable, "infra/images/build/build.py", "--only", ",".join(names), "--into", str(into)]
    environment = {**os.environ, "TRIMTAB_DOCKER": DOCKER}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    facts: dict[str, Any] = json.loads((into / "images.json").read_text())
    return facts


def docker(*words: str, check: bool = True) -> str:
    """What `docker` prints."""
    done = subprocess.run([DOCKER, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, f"docker {' '.join(words)}: {done.stderr}"
    return done.stdout + (done.stderr if words[0] == "logs" else "")


@contextmanager
def running(image: str, *options: str, env: Mapping[str, str], command: Sequence[str] = ()) -> Iterator[str]:
    """A container of *image*; its name. It is removed at the end, with the volumes that it made."""
    name = f"trimtab-test-{uuid.uuid4().hex[:8]}"
    given = [word for key, value in env.items() for word in ("--env", f"{key}={value}")]
    docker("run", "--detach", "--name", name, *options, *given, image, *command)
    try:
        yield name
    finally:
        docker("rm", "--force", "--volumes", name, check=False)
