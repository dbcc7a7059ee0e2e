"""The releases in memory and which of them answers. Changing that is one assignment, so a request sees either the
old pair or the new one. Who ought to be live is the ledger's to say; `serving.background` asks it."""

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
_LOADED_BESIDE = 2
Watch = Callable[[str, int], AbstractContextManager[None]]  # around what may end the process: digest, ledger version
_WARM_ROWS = (1, 1, 1, 8, 8, 32, 32, 64, 64)


@dataclass(frozen=True)
class LoadedModel:
    """A release in memory, checked and warm. *pace* is what its calls took."""

    bundle: Bundle
    scorer: Scorer
    intake: RowParser
    latency: LatencyEstimator = field(default_factory=LatencyEstimator)

    @property
    def digest(self) -> str:
        """The release's digest."""
        return self.bundle.digest

    @property
    def version(self) -> int:
        """Its number in the model registry."""
        return self.bundle.manifest.model_version

    @property
    def route(self) -> str:
        """How the model is asked."""
        return self.scorer.route

    def can_score_inline(self, rows: int) -> bool:
        """Whether the model may be asked for that many rows where everybody waits. Only the compiled way is known to
        take as long as ever; other models are foreign code, which may take its time once in a while."""
        return self.route != SCIKIT_LEARN and self.latency.is_fast(rows)

    @cached_property
    def numbers(self) -> tuple[str, ...]:
        """Features that are numbers."""
        return tuple(f.name for f in self.intake.features if f.kind == "number")

    @cached_property
    def categories(self) -> tuple[str, ...]:
        """Features that are categories."""
        return tuple(f.name for f in self.intake.features if f.kind == "category")

    @cached_property
    def known(self) -> frozenset[str]:
        """Every column that a row may have."""
        columns = self.bundle.manifest.columns
        names = (*self.numbers, *self.categories, columns.time, columns.id, columns.key)
        return frozenset(name for name in names if name is not None)

    def has_same_input(self, other: LoadedModel) -> bool:
        """Whether rows that were understood for *other* are understood for this one as well."""
        mine, theirs = self.bundle.manifest, other.bundle.manifest
        return mine.features == theirs.features and mine.columns == theirs.columns

    def read(self, raw: Any, *, now_us: int) -> ParsedRows:
        """Understand a list of objects, an object of lists or an Arrow table. Raises BadInput."""
        if isinstance(raw, list):
            return self.intake.read(raw, now_us=now_us)
        if isinstance(raw, dict):
            return self.intake.read_columns(raw, now_us=now_us)
        return self.intake.read_arrow(raw, now_us=now_us)

    def score(self, rows: Any, *, now_us: int) -> tuple[ParsedRows, Scores]:
        """Understand *rows* and answer them. Raises BadInput."""
        understood = self.read(rows, now_us=now_us)
        return understood, self.scorer.score_rows(understood)


@dataclass(frozen=True)
class ServingState:
    """Who answers at present. *version* is the ledger's; 0 before the first release. While there is a rollout, the
    challenger scores every row as well and answers *share* of the keys; *absent* says why one that ought to be here is
    not. *slices* are the columns that the rollout's verdict is also given for."""

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
        """Who answers where the champion fails: in probation the one before it, who is asked about every row anyhow.
        What the champion failed at is then the pairs' to tell."""
        if not self.in_probation or self.champion is None or self.challenger is None:
            return None
        return replace(
            self, champion=self.challenger, challenger=self.champion, share=0.0,
            challenger_digest=self.champion.digest, in_probation=False,
        )  # fmt: skip

    @cached_property
    def same_input(self) -> bool:
        """Whether champion and challenger understand rows alike, so that it has to be done only once."""
        return self.champion is None or self.challenger is None or self.challenger.has_same_input(self.champion)

    @cached_property
    def challenger_only_columns(self) -> frozenset[str]:
        """Columns that only the challenger knows: clients may send them before it is champion."""
        if self.champion is None or self.challenger is None:
            return frozenset()
        return self.challenger.known - self.champion.known


@dataclass(frozen=True)
class ProbeResult:
    """What became of a release's own samples."""

    ok: bool
    worst_difference: float | None
    latency_ms: float
    reason: str


class LoadedModels:
    """Loads releases from *shelf* and remembers the ones worth keeping: champion, challenger, the previous champion
    and the last ones that were loaded beside them."""

    def __init__(self, release_store: ReleaseStore, *, allow: Collection[str] = (), watch: Watch | None = None) -> None:
        self._release_store, self._allow, self._watch = (
            release_store,
            frozenset(allow),
            watch or (lambda *_: nullcontext()),
        )
        self._lock, self._opening = threading.Lock(), threading.Lock()
        self._loaded: dict[str, LoadedModel] = {}
        self._previous: str | None = None
        self.state = ServingState()

    @property
    def digests(self) -> list[str]:
        """Releases in memory."""
        return sorted(self._loaded)

    @property
    def previous(self) -> str | None:
        """The champion before this one."""
        return self._previous

    def load(self, digest: str, *, version: int | None = None) -> LoadedModel:
        """The release, loaded beside the live ones if it is not in memory yet, for the ledger's *version* or for the
        present one. Raises stores.releases.bundle.ReleaseError."""
        if (found := self._found(digest)) is not None:
            return found
        with self._opening:  # which may take its time, while others change who is live
            if (found := self._found(digest)) is not None:
                return found
            with self._watch(digest, self.state.version if version is None else version):
                loaded = self._open(digest)
            with self._lock:
                self._loaded[digest] = loaded
                self._forget(keep=digest)
            return loaded

    def _found(self, digest: str) -> LoadedModel | None:
        with self._lock:
            found = self._loaded.pop(digest, None)
            if found is not None:
                self._loaded[digest] = found  # the newest is last
            return found

    def switch(self, state: ServingState) -> None:
        """Let this state, whose releases `load` gave, answer from now on."""
        with self._lock:
            before, self.state = self.state.champion, state
            pair = [r for r in (state.champion, state.challenger) if r is not None]
            self._loaded.update({r.digest: r for r in pair})
            if before is not None and before.digest != pair[0].digest:
                self._previous = before.digest
            self._forget(keep=pair[0].digest)

    def probe(self, digest: str) -> ProbeResult:
        """Send the release's own samples the way every request goes, and compare with what was recorded."""
        loaded = self.load(digest)
        rows, recorded = loaded.bundle.samples
        started = time.perf_counter()
        try:
            with self._watch(digest, self.state.version):
                _, scores = loaded.score(rows, now_us=0)
        except Exception as error:  # noqa: BLE001 - a model is foreign code: whatever it raises is the probe's finding
            return ProbeResult(False, None, _since_ms(started), f"{type(error).__name__}: {error}")
        latency_ms = _since_ms(started)
        worst = worst_difference(scores.answers(), recorded)
        if worst <= _TOLERANCE:
            return ProbeResult(True, worst, latency_ms, f"{len(rows)} sample rows gave the recorded predictions")
        finite = worst if worst != float("inf") else None
        return ProbeResult(False, finite, latency_ms, f"sample rows differ from the recorded predictions by {worst:g}")

    def _open(self, digest: str) -> LoadedModel:
        bundle = self._release_store.get(digest)
        try:
            scorer = load_scorer(bundle, allow=self._allow)
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            raise CorruptRelease(digest, "model.skops", f"cannot be loaded: {error}") from error
        loaded = LoadedModel(bundle, scorer, RowParser(bundle.manifest.features, bundle.manifest.columns))
        rows, _ = bundle.samples
        try:
            loaded.score(rows[:1], now_us=0)  # the first call is the slow one, and a model that cannot answer is out
            _warm(loaded, rows)
        except Exception as error:
            raise CorruptRelease(digest, "model.skops", f"cannot answer: {type(error).__name__}: {error}") from error
        return loaded

    def _forget(self, *, keep: str) -> None:
        live = {r.digest for r in (self.state.champion, self.state.challenger) if r}
        precious = live | {keep, *([self._previous] if self._previous else [])}
        spare = [digest for digest in self._loaded if digest not in precious]
        for digest in spare[: max(0, len(spare) - _LOADED_BESIDE)]:
            del self._loaded[digest]


def _warm(loaded: LoadedModel, rows: list[dict[str, Any]]) -> None:
    """Find out how long the model takes for few rows and for some; a slow one is not asked for long."""
    began = time.perf_counter()
    for size in _WARM_ROWS:
        understood = loaded.read((rows * size)[:size], now_us=0)
        started = time.perf_counter()
        loaded.scorer.score_rows(understood)
        loaded.latency.observe(size, time.perf_counter() - started)
        if time.perf_counter() - began > 0.2:
            return


def _since_ms(started: float) -> float:
    return (time.perf_counter() - started) * 1000
