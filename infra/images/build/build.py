"""Build the images with BuildKit, with commit, lock and SBOM in their labels, and say how large they are.

    python3 infra/images/build/build.py [--only NAME,NAME] [--tag TAG] [--into FOLDER]

FOLDER (default: build/images) gets NAME.cdx.json, the SBOM of each of our two images, and images.json:
names, digests and sizes. TRIMTAB_DOCKER names another docker than the first in PATH. Needs nothing but Python and
Docker."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
LOCKS = {"server": "requirements-server.lock", "worker": "requirements.lock"}
BESIDE = ("postgres", "objects", "proxy", "prometheus", "alertmanager")
_DOCKER = os.environ.get("TRIMTAB_DOCKER", "docker")


class Failed(Exception):
    """Docker did not do it; what it said has been printed."""


def main(arguments: list[str]) -> int:
    """Build; 1 when an image cannot be built."""
    parser = argparse.ArgumentParser(description="Build Trimtab's images.")
    parser.add_argument("--only", default=",".join([*LOCKS, *BESIDE]), help="which, with commas between")
    parser.add_argument("--tag", default="latest")
    parser.add_argument("--base", default="3.11-slim-bookworm", help="tag of the python image that all are made from")
    parser.add_argument("--into", type=Path, default=ROOT / "build" / "images")
    given = parser.parse_args(arguments)
    names = given.only.split(",")
    if unknown := sorted({*names} - {*LOCKS, *BESIDE}):
        parser.error(f"no image is called {unknown[0]}; there are {', '.join([*LOCKS, *BESIDE])}")
    given.into.mkdir(parents=True, exist_ok=True)
    commit, base = _commit(), _size(f"python:{given.base}")
    facts: dict[str, Any] = {}
    try:
        for name in names:
            started = time.monotonic()
            arguments_of = {"PYTHON": given.base, "COMMIT": commit, **_provenance(name, given.base, given.into)}
            tag = f"trimtab-{name}:{given.tag}"
            _build(name, arguments_of, "--tag", tag)
            size = _size(tag)
            facts[name] = {"tag": tag, "id": _inspect(tag, "{{.Id}}"), "bytes": size, "bytes_above_base": size - base}
            took = time.monotonic() - started
            print(
                f"{tag}: {size / 1e6:.0f} MB, {(size - base) / 1e6:.0f} above its base, built in {took:.0f} s",
                flush=True,
            )
    except Failed as error:
        print(f"not built: {error}", file=sys.stderr)
        return 1
    (given.into / "images.json").write_text(
        json.dumps({"commit": commit, "base": base, "images": facts}, indent=1) + "\n"
    )
    return 0


def _provenance(name: str, base: str, into: Path) -> dict[str, str]:
    """Digests of an image's lock and of its SBOM, which is written into *into*; of ours only."""
    if name not in LOCKS:
        return {}
    _build(f"{name}-sbom", {"PYTHON": base}, "--output", f"type=local,dest={into}")
    sbom = into / f"trimtab-{name}.cdx.json"
    return {"LOCK": _digest(ROOT / LOCKS[name]), "SBOM": f"{sbom.name}@{_digest(sbom)}"}


def _build(target: str, arguments: Mapping[str, str], *words: str) -> None:
    """Build one target; raises Failed with the end of the builder's log."""
    file = ROOT / ("infra/images/Dockerfile" if target in BESIDE else "Dockerfile")
    given = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
    command = [_DOCKER, "build", "--progress=plain", "--file", str(file), "--target", target, *given, *words, str(ROOT)]
    with tempfile.TemporaryFile() as log:
        environment = {**os.environ, "DOCKER_BUILDKIT": "1"}
        done = subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT, check=False)
        if done.returncode != 0:
            log.seek(0)
            raise Failed(f"{target}\n" + log.read().decode(errors="replace")[-3000:])


def _digest(file: Path) -> str:
    return f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"


def _commit() -> str:
    """The commit, marked when the tree differs from it; `unknown` without git."""
    said = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
                          capture_output=True, text=True, check=False)  # fmt: skip
    return said.stdout.strip() or "unknown"


def _size(image: str) -> int:
    return int(_inspect(image, "{{.Size}}") or 0)


def _inspect(image: str, what: str) -> str:
    said = subprocess.run(
        [_DOCKER, "image", "inspect", "--format", what, image], capture_output=True, text=True, check=False
    )
    return said.stdout.strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
