"""Threads that keep the server right while it answers: one follows the ledger, one looks after telemetry."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from serving.metrics.server import ServerMetrics
from serving.models.crash_guard import CrashGuard
from serving.models.loaded import LoadedModel, LoadedModels, ServingState
from stores.ledger import Ledger, LiveRelease, Rollout
from stores.releases.bundle import ReleaseError, UnreachableRelease
from stores.telemetry import CompactionProcess, Recorder, TelemetryLocation
from stores.telemetry.parquet.files import pending_bytes
from stores.telemetry.remote.upload_process import UploadProcess

_RETRY_S = 2.0
log = logging.getLogger("trimtab.serving")


class PeriodicThread:
    """Calls *work* every *every_s* seconds in a thread until stopped. What it raises is logged, and it goes on: these
    threads are what brings the server back once the trouble is over."""

    def __init__(self, name: str, work: Callable[[], None], *, every_s: float) -> None:
        self._work, self._every_s = work, every_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin; the first call is made at once."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the call that is being made, and no more."""
        self._stopping.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._work()
            except Exception:
                log.exception("%s failed, will be tried again", self._thread.name)
            self._stopping.wait(self._every_s)


class LedgerFollower:
    """Makes the roster what the ledger says. The troubles are why it is not, or None; *vacant* is whether the ledger
    was asked last with success and names nobody, so that nobody is missing here."""

    def __init__(
        self,
        ledger: Ledger,
        roster: LoadedModels,
        metrics: ServerMetrics,
        guard: CrashGuard,
        *,
        release: str | None = None,
    ) -> None:
        self._ledger, self._roster, self._metrics, self._guard = ledger, roster, metrics, guard
        self._release = release
        self.ledger_trouble: str | None = "not asked yet"
        self.release_trouble: str | None = None
        self.vacant = False
        self._retry: tuple[int, float] = (0, 0.0)
        self._awaited: str | None = None

    def run_once(self) -> None:
        """Ask once. An unreachable ledger or an unusable release leaves the present champion answering."""
        try:
            live = self._ledger.live()
            self.vacant = live is None
            state = self._roster.state
            if live is None or (live.version == state.version and not self._incomplete(state)):
                self._note_ledger(None)
                return
            if live.version == self._retry[0] and time.monotonic() < self._retry[1]:
                self._note_ledger(None)
                return
            current = self._ledger.current_rollout(live)
        except Exception as error:  # noqa: BLE001 - whatever a database driver raises means the same here
            self.vacant = False  # somebody may have become live meanwhile
            self._note_ledger(f"{type(error).__name__}: {error}")
            return
        self._note_ledger(None)
        self._retry = (live.version, time.monotonic() + _RETRY_S)
        first = state.champion is None
        if first and self.release_trouble is None:
            self.release_trouble = f"release {live.champion[:12]} is live and not loaded yet"
        try:
            found = self._desired_state(live, current.rollout if current else None)
        except ReleaseError as error:
            self._note_release(live.version, str(error))
            return
        self._note_release(live.version, found.unavailable_reason)
        if found.version == state.version and found.unavailable_reason == state.unavailable_reason:
            return
        self._roster.switch(found)
        self._metrics.set_live(found)
        log.info("version %s: champion %s, challenger %s", live.version, live.champion[:12], live.challenger)
        if first:
            gc.collect()
            gc.freeze()  # what is loaded by now stays: no later collection has to walk through it

    @property
    def refused(self) -> dict[str, str]:
        """The challenger that ought to be here but is not, and why. One that is only waited for, as the store does not
        answer, is not refused: it would be taken back for that."""
        state = self._roster.state
        if state.challenger_digest in (None, self._awaited) or state.unavailable_reason is None:
            return {}
        return {str(state.challenger_digest): state.unavailable_reason}

    def _desired_state(self, live: LiveRelease, row: Rollout | None) -> ServingState:
        """What the ledger says, in memory. A challenger that cannot be had does not keep the champion from its place.
        Raises ReleaseError when the champion cannot be loaded."""
        champion = self._roster.load(live.champion, version=live.version)
        challenger, absent = self._challenger(live)
        self._guard.challenger(challenger.digest if challenger else None, live.version)
        return ServingState(
            version=live.version,
            champion=champion,
            challenger=challenger,
            share=self._share(live),
            rollout=(live.rollout or f"version-{live.version}") if live.challenger else None,
            slices=_slices(row),
            challenger_digest=live.challenger,
            unavailable_reason=absent,
            in_probation=row is not None and row.release == live.champion,
        )

    def _share(self, live: LiveRelease) -> float:
        """The share of the keys that the challenger answers: the ledger's; or, where somebody else shifts traffic
        between servers, all or nothing, by the release that this server is for."""
        if live.challenger is None:
            return 0.0
        if self._release is None:
            return live.challenger_share
        return float(live.challenger.startswith(self._release))

    def _challenger(self, live: LiveRelease) -> tuple[LoadedModel | None, str | None]:
        self._awaited = None
        if live.challenger is None:
            return None, None
        if (refusal := self._guard.refusal_reason(live.challenger, live.version)) is not None:
            return None, refusal
        try:
            return self._roster.load(live.challenger, version=live.version), None
        except UnreachableRelease as error:
            self._awaited = live.challenger
            return None, str(error)
        except ReleaseError as error:
            return None, str(error)

    def _incomplete(self, state: ServingState) -> bool:
        return state.challenger_digest is not None and state.challenger is None

    def _note_release(self, version: int, trouble: str | None) -> None:
        if trouble and trouble != self.release_trouble:
            log.error("version %s: %s", version, trouble)
        self.release_trouble = trouble

    def _note_ledger(self, trouble: str | None) -> None:
        self._metrics.ledger_up.set(trouble is None)
        if trouble is None:
            self._metrics.ledger_answered_at = time.monotonic()
        elif trouble != self.ledger_trouble:
            log.warning("ledger: %s", trouble)
        self.ledger_trouble = trouble


class DecisionMetrics:
    """Shows the newest decision of monitoring in the metrics."""

    def __init__(self, ledger: Ledger, metrics: ServerMetrics) -> None:
        self._ledger, self._metrics = ledger, metrics
        self._shown: str | None = None

    def run_once(self) -> None:
        """Once; an unreachable ledger is the follower's to tell."""
        try:
            decisions = self._ledger.decisions()
        except Exception as error:  # noqa: BLE001 - whatever a database driver raises means the same here
            log.debug("no decisions: %s", error)
            return
        if decisions and decisions[-1].id != self._shown:
            self._shown = decisions[-1].id
            self._metrics.set_decision(decisions[-1].period, decisions[-1].evidence)


class TelemetryMaintenance:
    """Looks after telemetry: room after a failure, sync, finished segments. These are compacted by a process of its
    own and, where there is a store, brought there; those of an earlier life at once."""

    def __init__(self, recorder: Recorder, place: TelemetryLocation, *, compact_s: float, drain_s: float) -> None:
        self._recorder, self._drain_s = recorder, drain_s
        self._compactor = CompactionProcess(recorder.root, every_s=compact_s) if isinstance(place, Path) else None
        self._shipper = None if isinstance(place, Path) else UploadProcess(place)

    @property
    def compaction_trouble(self) -> str | None:
        """Why finished segments were not compacted last time."""
        return self._compactor.failure if self._compactor else None

    @property
    def shipping_trouble(self) -> str | None:
        """Why they could not be brought to the store last time."""
        return self._shipper.failure if self._shipper else None

    def run_once(self) -> None:
        """One round."""
        self._recorder.maintain()
        if self._compactor is not None:
            self._compactor.run_once()
        if self._shipper is not None:
            self._shipper.run_once()

    def stop(self) -> None:
        """End, when nothing more will be recorded: a compaction at once, which may be done at any moment; shipping when
        everything is in the store, or time is up."""
        if self._compactor is not None:
            self._compactor.stop()
        if self._shipper is not None and not self._shipper.stop(within_s=self._drain_s):
            log.error(
                "%d bytes of telemetry stay in %s, as they could not be brought to the store: %s. The next server with "
                "this folder brings them.",
                pending_bytes(self._recorder.root, with_parts=True), self._recorder.root, self.shipping_trouble,
            )  # fmt: skip


def _slices(rollout: Rollout | None) -> tuple[str, ...]:
    """The columns that a rollout's verdict is also given for."""
    policy = rollout.policy if rollout is not None else None
    return tuple((policy or {}).get("slices") or ())
