"""The environment of the peers that cannot share ours: made from its lock, once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from bench.serving.material import ROOT, SCRATCH
from bench.serving.processes import DidNotRun

PEERS = ROOT / "bench" / "peers"
_LOCK = PEERS / "requirements.lock"


def ready() -> Path:
    """The folder of its programs. Raises DidNotRun when it cannot be made."""
    folder = SCRATCH / "peers"
    stamp, lock = folder / "installed.lock", _LOCK.read_text()
    if not stamp.exists() or stamp.read_text() != lock:
        print("  installing the peers: some seconds to a minute", flush=True)
        uv = _uv()
        python = str(folder / "bin" / "python")
        _run(uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder))
        _run(uv, "pip", "sync", "--quiet", "--python", python, "--require-hashes", "--compile-bytecode", str(_LOCK))
        stamp.write_text(lock)
    return folder / "bin"


def _uv() -> str:
    ours = ROOT / ".venv" / "boot" / "bin" / "uv"
    found = str(ours) if ours.exists() else shutil.which("uv")
    if found is None:
        raise DidNotRun("uv is missing: `make bench-serving` brings it")
    return found


def _run(*command: str) -> None:
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if done.returncode:
        raise DidNotRun(f"{' '.join(command[:3])}: {done.stderr[-1500:]}")
