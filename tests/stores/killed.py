"""A writer of telemetry that is killed while it announces what it has written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

CODE = Path(__file__).resolve().parents[2]


def announced_by(script: str, root: Path) -> list[str]:
    """The ids in the whole lines that *script*, given *root*, printed until it was killed with -9 after some fifty."""
    command = [sys.executable, "-c", script, str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=CODE) as writer:
        assert writer.stdout is not None
        lines = [writer.stdout.readline() for _ in range(50)]
        os.kill(writer.pid, signal.SIGKILL)
        lines += writer.stdout.readlines()
    return [id for line in lines if line.endswith("\n") for id in line.split()]
