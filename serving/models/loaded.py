"""The releases in memory, and which of them are live. A change is one assignment, so a request sees either the old
champion and challenger or the new ones. `serving.background` reads from the ledger what should be live."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from serving.models.latency import LatencyEstimator
from stores.releases.backend import load_scorer
from stores.releases.bundle import Bundle, CorruptRelease
from stores.releases.store import ReleaseStore
from trimtab.model.scoring import Scorer, Scores, worst_difference
from trimtab.predictors.compile import SCIKIT_LEARN
from trimtab.requests.parser import RowParser
from trimtab.requests.rows import ParsedRows

_TOLERANCE = 1e-6
_MAX_SPARE = 2  # releases in memory that are neither live nor the previous champion
Watch = Callable[[str, int], AbstractContextManager[None]]  # digest, ledger version; entered where a model may crash
_WARM_ROWS = (1, 1, 1, 8, 8, 32, 32, 64, 64)


@dataclass(frozen=True)
class LoadedModel:
    """A release in memory. Its digests are checked, and it has scored some rows."""

    bundle: Bundle
    scorer: Scorer
    parser: RowParser
    latency: LatencyEstimator = field(default_factory=LatencyEstimator)

    @property
    def digest(self) -> str:
        """The release's SHA-256 digest."""
        return self.bundle.digest

    @property
    def version(self) -> int:
        """The release's number in the model registry."""
        return self.bundle.manifest.model_version

    @property
    def backend(self) -> str:
        """How the model is executed."""
        return self.scorer.backend

    def can_score_inline(self, rows: int) -> bool:
        """Whether *rows* rows may be scored on the event loop. Only compiled models may: their time is predictable,
        other models are foreign code that may be slow at any call."""
        return self.backend != SCIKIT_LEARN and self.latency.is_fast(rows)

    @cached_property
    def numbers(self) -> tuple[str, ...]:
        """Names of the numeric features."""
        return tuple(f.name for f in self.parser.features if f.kind == "number")

    @cached_property
    def categories(self) -> tuple[str, ...]:
        """Names of the categorical features."""
        return tuple(f.name for f in self.parser.features if f.kind == "category")

    @cached_property
    def known(self) -> frozenset[str]:
        """Names of all columns that a row may have."""
        columns = self.bundle.manifest.columns
        names = (*self.numbers, *self.categories, columns.time, columns.id, columns.key)
        return frozenset(name for name in names if name is not None)

    def has_same_input(self, other: LoadedModel) -> bool:
        """Whether rows that were parsed for *other* are valid input of this model too."""
        mine, theirs = self.bundle.manifest, other.bundle.manifest
        return mine.features == theirs.features and mine.columns == theirs.columns

    def read(self, raw: Any, *, now_us: int) -> ParsedRows:
        """Parse a list of objects, an object of lists or an Arrow table. Raises BadInput."""
        if isinstance(raw, list):
            return self.parser.read(raw, now_us=now_us)
        if isinstance(raw, dict):
            return self.parser.read_columns(raw, now_us=now_us)
        return self.parser.read_arrow(raw, now_us=now_us)

    def score(self, rows: Any, *, now_us: int) -> tuple[ParsedRows, Scores]:
        """Parse *rows* and score them. Raises BadInput."""
        parsed = self.read(rows, now_us=now_us)
        return parsed, self.scorer.score_rows(parsed)


@dataclass(frozen=True)
class ServingState:
    """What is live. *version* is the ledger's; 0 before the first release.

    During a rollout the challenger scores every row too, and answers *share* of the keys. *unavailable_reason* says why
    the challenger *challenger_digest* is not in memory. *slices* are the columns that the rollout's verdict is also
    given for. *in_probation* is true while labels may still take back the champion's promotion.
    """

    version: int = 0
    champion: LoadedModel | None = None
    challenger: LoadedModel | None = None
    share: float = 0.0
    rollout: str | None = None
    slices: tuple[str, ...] = ()
    challenger_digest: str | None = None
    unavailable_reason: str | None = None
    in_probation: bool = False

    @cached_property
    def fallback(self) -> ServingState | None:
        """The state to use for a request that the champion fails, or None. During probation it is the previous
        champion, which scores every row anyway. The pairs then record the failure as the challenger's."""
        if not self.in_probation or self.champion is None or self.challenger is None:
            return None
        return replace(
            self, champion=self.challenger, challenger=self.champion, share=0.0,
            challenger_digest=self.champion.digest, in_probation=False,
        )  # fmt: skip

    @cached_property
    def same_input(self) -> bool:
        """Whether champion and challenger have the same input, so that rows are parsed only once."""
        return self.champion is None or self.challenger is None or self.challenger.has_same_input(self.champion)

    @cached_property
    def challenger_only_columns(self) -> frozenset[str]:
        """Columns that only the challenger has. Clients may send them before it becomes the champion."""
        if self.champion is None or self.challenger is None:
            return frozenset()
        return self.challenger.known - self.champion.known


@dataclass(frozen=True)
class ProbeResult:
    """The result of scoring a release's own samples. *worst_difference* is the largest absolute difference from the
    recorded predictions; None when the call raised or a value is missing."""

    ok: bool
    worst_difference: float | None
    latency_ms: float
    reason: str


class LoadedModels:
    """Loads releases from *store* and keeps in memory: champion, challenger, the previous champion, and the last two
    others that were loaded. Thread-safe."""

    def __init__(self, store: ReleaseStore, *, allow: Collection[str] = (), watch: Watch | None = None) -> None:
        self._store, self._allow, self._watch = store, frozenset(allow), watch or (lambda *_: nullcontext())
        self._lock, self._load_lock = threading.Lock(), threading.Lock()
        self._loaded: dict[str, LoadedModel] = {}
        self._previous: str | None = None
        self.state = ServingState()

    @property
    def digests(self) -> list[str]:
        """Digests of the releases in memory, sorted."""
        return sorted(self._loaded)

    @property
    def previous(self) -> str | None:
        """Digest of the champion before the present one."""
        return self._previous

    def load(self, digest: str, *, version: int | None = None) -> LoadedModel:
        """The release *digest*, loaded if it is not in memory. *version* is the ledger version that it is loaded for;
        the present one if None. Raises stores.releases.bundle.ReleaseError."""
        if (found := self._cached(digest)) is not None:
            return found
        with self._load_lock:  # held for long; `switch` needs only the other lock
            if (found := self._cached(digest)) is not None:
                return found
            with self._watch(digest, self.state.version if version is None else version):
                loaded = self._load(digest)
            with self._lock:
                self._loaded[digest] = loaded
                self._evict(keep=digest)
            return loaded

    def _cached(self, digest: str) -> LoadedModel | None:
        with self._lock:
            found = self._loaded.pop(digest, None)
            if found is not None:
                self._loaded[digest] = found  # the most recently used is last
            return found

    def switch(self, state: ServingState) -> None:
        """Make *state* live. Its releases have to come from `load`."""
        with self._lock:
            before, self.state = self.state.champion, state
            pair = [r for r in (state.champion, state.challenger) if r is not None]
            self._loaded.update({r.digest: r for r in pair})
            if before is not None and before.digest != pair[0].digest:
                self._previous = before.digest
            self._evict(keep=pair[0].digest)

    def probe(self, digest: str) -> ProbeResult:
        """Score the release's own samples as a request is scored, and compare with the recorded predictions. Raises
        ReleaseError when it cannot be loaded."""
        loaded = self.load(digest)
        rows, recorded = loaded.bundle.samples
        started = time.perf_counter()
        try:
            with self._watch(digest, self.state.version):
                _, scores = loaded.score(rows, now_us=0)
        except Exception as error:  # noqa: BLE001 - a model is foreign code and may raise anything
            return ProbeResult(False, None, _since_ms(started), f"{type(error).__name__}: {error}")
        latency_ms = _since_ms(started)
        worst = worst_difference(scores.answers(), recorded)
        if worst <= _TOLERANCE:
            return ProbeResult(True, worst, latency_ms, f"{len(rows)} sample rows gave the recorded predictions")
        finite = worst if worst != float("inf") else None
        return ProbeResult(False, finite, latency_ms, f"sample rows differ from the recorded predictions by {worst:g}")

    def _load(self, digest: str) -> LoadedModel:
        bundle = self._store.get(digest)
        try:
            scorer = load_scorer(bundle, allow=self._allow)
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            raise CorruptRelease(digest, "model.skops", f"cannot be loaded: {error}") from error
        loaded = LoadedModel(bundle, scorer, RowParser(bundle.manifest.features, bundle.manifest.columns))
        rows, _ = bundle.samples
        try:
            loaded.score(rows[:1], now_us=0)  # the first call is slow; a model that fails it is rejected
            _warm(loaded, rows)
        except Exception as error:
            raise CorruptRelease(digest, "model.skops", f"cannot score: {type(error).__name__}: {error}") from error
        return loaded

    def _evict(self, *, keep: str) -> None:
        live = {r.digest for r in (self.state.champion, self.state.challenger) if r}
        kept = live | {keep, *([self._previous] if self._previous else [])}
        spare = [digest for digest in self._loaded if digest not in kept]
        for digest in spare[: max(0, len(spare) - _MAX_SPARE)]:
            del self._loaded[digest]


def _warm(loaded: LoadedModel, rows: list[dict[str, Any]]) -> None:
    """Measure the model's latency for 1 to 64 rows; stops after 0.2 s."""
    began = time.perf_counter()
    for size in _WARM_ROWS:
        parsed = loaded.read((rows * size)[:size], now_us=0)
        started = time.perf_counter()
        loaded.scorer.score_rows(parsed)
        loaded.latency.observe(size, time.perf_counter() - started)
        if time.perf_counter() - began > 0.2:
            return


def _since_ms(started: float) -> float:
    return (time.perf_counter() - started) * 1000
