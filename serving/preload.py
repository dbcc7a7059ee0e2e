"""Releases that a server is started for: one baked into its image is put where releases are kept, and one that it is to
have in memory keeps it from being ready until it answers as recorded. Who answers users is the ledger's to say."""

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
    """Copy what is in *baked* and not yet in *releases*, each whole or not at all; the digests. Several may."""
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
        except OSError:  # another was first
            shutil.rmtree(scratch, ignore_errors=True)
    return copied


class Preload:
    """Has *digest* loaded and probed. *trouble* is why it is not, None once it was, or when none is asked for."""

    def __init__(self, digest: str | None, roster: LoadedModels, guard: CrashGuard) -> None:
        self._digest, self._roster, self._guard = digest, roster, guard
        self.trouble = None if digest is None else f"release {digest[:12]} is not loaded yet"

    @property
    def done(self) -> bool:
        """Whether a release was asked for and is there."""
        return self._digest is not None and self.trouble is None

    def run_once(self) -> None:
        """Try once, as long as it is not done."""
        if self._digest is None or self.trouble is None:
            return
        if (refusal := self._guard.refusal_reason(self._digest, self._roster.state.version)) is not None:
            self.trouble = f"release {self._digest[:12]} is not loaded: {refusal}"
            return
        try:
            probe = self._roster.probe(self._digest)
        except ReleaseError as error:
            self.trouble = str(error)
            return
        self.trouble = None if probe.ok else f"release {self._digest[:12]}: {probe.reason}"
        if probe.ok:
            log.info("release %s is loaded and answers as recorded", self._digest[:12])
