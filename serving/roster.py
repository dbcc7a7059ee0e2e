"""The releases in memory and which of them answers. Changing that is one assignment, so a request sees either the
old pair or the new one. Who ought to be live is the ledger's to say; `serving.follower` asks it."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stores.bundles import Bundle, CorruptRelease, open_bundle
from trimtab.intake import Intake, Rows
from trimtab.scoring import Scorer, Scores, worst_difference

_TOLERANCE = 1e-6
_LOADED_BESIDE = 2


@dataclass(frozen=True)
class Loaded:
    """A release in memory, checked and warm."""

    bundle: Bundle
    scorer: Scorer
    intake: Intake

    @property
    def digest(self) -> str:
        """The release's digest."""
        return self.bundle.digest

    def score(self, rows: Any, *, now_us: int) -> tuple[Rows, Scores]:
        """Understand *rows*, a list of objects or an object of lists, and answer them. Raises BadInput."""
        read = self.intake.read_columns if isinstance(rows, dict) else self.intake.read
        understood = read(rows, now_us=now_us)
        return understood, self.scorer.score_frame(understood.frame())


@dataclass(frozen=True)
class Standing:
    """Who answers at present. *version* is the ledger's; 0 before the first release."""

    version: int = 0
    champion: Loaded | None = None
    challenger: Loaded | None = None


@dataclass(frozen=True)
class Probe:
    """What became of a release's own samples."""

    ok: bool
    worst_difference: float | None
    latency_ms: float
    reason: str


class Roster:
    """Loads releases from *folder* and remembers the ones worth keeping: champion, challenger, the previous champion
    and the last ones that were loaded beside them."""

    def __init__(self, folder: Path, *, allow: Collection[str] = ()) -> None:
        self._folder, self._allow = folder, frozenset(allow)
        self._lock = threading.Lock()
        self._loaded: dict[str, Loaded] = {}
        self._previous: str | None = None
        self.standing = Standing()

    @property
    def digests(self) -> list[str]:
        """Releases in memory."""
        return sorted(self._loaded)

    @property
    def previous(self) -> str | None:
        """The champion before this one."""
        return self._previous

    def load(self, digest: str) -> Loaded:
        """The release, loaded beside the live ones if it is not in memory yet. Raises stores.bundles.ReleaseError."""
        with self._lock:
            if digest not in self._loaded:
                loaded = self._open(digest)
                self._loaded[digest] = loaded
                self._forget(keep=digest)
            else:
                self._loaded[digest] = self._loaded.pop(digest)  # the newest is last
            return self._loaded[digest]

    def switch(self, version: int, champion: str, challenger: str | None) -> None:
        """Let *champion* answer from now on. Raises ReleaseError before anything has changed."""
        first, second = self.load(champion), self.load(challenger) if challenger else None
        with self._lock:
            before = self.standing.champion
            self.standing = Standing(version, first, second)
            self._loaded.update({r.digest: r for r in (first, second) if r})
            if before is not None and before.digest != champion:
                self._previous = before.digest
            self._forget(keep=champion)

    def probe(self, digest: str) -> Probe:
        """Send the release's own samples the way every request goes, and compare with what was recorded."""
        loaded = self.load(digest)
        rows, recorded = loaded.bundle.samples
        started = time.perf_counter()
        try:
            _, scores = loaded.score(rows, now_us=0)
        except Exception as error:  # noqa: BLE001 - a model is foreign code: whatever it raises is the probe's finding
            return Probe(False, None, _since_ms(started), f"{type(error).__name__}: {error}")
        latency_ms = _since_ms(started)
        worst = worst_difference(scores.answers(), recorded)
        if worst <= _TOLERANCE:
            return Probe(True, worst, latency_ms, f"{len(rows)} sample rows gave the recorded predictions")
        finite = worst if worst != float("inf") else None
        return Probe(False, finite, latency_ms, f"sample rows differ from the recorded predictions by {worst:g}")

    def _open(self, digest: str) -> Loaded:
        bundle = open_bundle(self._folder, digest)
        try:
            scorer = bundle.scorer(allow=self._allow)
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            raise CorruptRelease(digest, "model.skops", f"cannot be loaded: {error}") from error
        loaded = Loaded(bundle, scorer, Intake(bundle.manifest.features, bundle.manifest.columns))
        rows, _ = bundle.samples
        try:
            loaded.score(rows[:1], now_us=0)  # the first call is the slow one, and a model that cannot answer is out
        except Exception as error:
            raise CorruptRelease(digest, "model.skops", f"cannot answer: {type(error).__name__}: {error}") from error
        return loaded

    def _forget(self, *, keep: str) -> None:
        live = {r.digest for r in (self.standing.champion, self.standing.challenger) if r}
        precious = live | {keep, *([self._previous] if self._previous else [])}
        spare = [digest for digest in self._loaded if digest not in precious]
        for digest in spare[: max(0, len(spare) - _LOADED_BESIDE)]:
            del self._loaded[digest]


def _since_ms(started: float) -> float:
    return (time.perf_counter() - started) * 1000
