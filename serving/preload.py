"""Releases that a server has from its start: one that is baked into its image is copied to the release folder, and one
that it must have loaded delays readiness until it gives the recorded predictions. The ledger decides what is live."""

from __future__ import annotations

import logging
import shutil
import uuid
from pathlib import Path

from serving.models.crash_guard import CrashGuard
from serving.models.loaded import LoadedModels
from stores.releases.bundle import ReleaseError

log = logging.getLogger("trimtab.serving")


def unpack(baked: Path, releases: Path) -> list[str]:
    """Copy the releases of *baked* that *releases* does not have, each completely or not at all; returns their digests.
    Several servers may do this at the same time."""
    copied = []
    for bundle in sorted(path for path in baked.iterdir() if path.is_dir()):
        target = releases / bundle.name
        if target.exists():
            continue
        releases.mkdir(parents=True, exist_ok=True)
        scratch = releases / f".new-{uuid.uuid4().hex}"
        shutil.copytree(bundle, scratch, copy_function=shutil.copyfile)
        try:
            scratch.rename(target)
            copied.append(bundle.name)
        except OSError:  # another server was first
            shutil.rmtree(scratch, ignore_errors=True)
    return copied


class Preload:
    """Loads and probes the release *digest*, if one is given. *trouble* says why it is not ready, or None."""

    def __init__(self, digest: str | None, models: LoadedModels, guard: CrashGuard) -> None:
        self._digest, self._models, self._guard = digest, models, guard
        self.trouble = None if digest is None else f"release {digest[:12]} is not loaded yet"

    @property
    def done(self) -> bool:
        """Whether a release is given and has passed its probe."""
        return self._digest is not None and self.trouble is None

    def run_once(self) -> None:
        """Try to load and probe it, unless it is done."""
        if self._digest is None or self.trouble is None:
            return
        if (refusal := self._guard.refusal_reason(self._digest, self._models.state.version)) is not None:
            self.trouble = f"release {self._digest[:12]} is not loaded: {refusal}"
            return
        try:
            probe = self._models.probe(self._digest)
        except ReleaseError as error:
            self.trouble = str(error)
            return
        self.trouble = None if probe.ok else f"release {self._digest[:12]}: {probe.reason}"
        if probe.ok:
            log.info("release %s is loaded and gives the recorded predictions", self._digest[:12])
