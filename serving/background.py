"""Background threads of the server: they follow the ledger, and compact and upload telemetry."""

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
    """Calls *work* every *every_s* seconds in a thread until stopped. Exceptions are logged, and *work* is called again
    at the next turn: these threads bring the server back once a failure is over."""

    def __init__(self, name: str, work: Callable[[], None], *, every_s: float) -> None:
        self._work, self._every_s = work, every_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start; the first call is made at once."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the running call; waits for it up to 10 s."""
        self._stopping.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._work()
            except Exception:
                log.exception("%s failed, it will be tried again", self._thread.name)
            self._stopping.wait(self._every_s)


class LedgerFollower:
    """Keeps *models* at what the ledger says is live.

    `ledger_trouble` and `release_trouble` say why it is not, or are None. `vacant` is true when the ledger could be
    read last time and no release is live. With *release*, this server answers with that release only, as far as it is
    champion or challenger.
    """

    def __init__(
        self,
        ledger: Ledger,
        models: LoadedModels,
        metrics: ServerMetrics,
        guard: CrashGuard,
        *,
        release: str | None = None,
    ) -> None:
        self._ledger, self._models, self._metrics, self._guard = ledger, models, metrics, guard
        self._release = release
        self.ledger_trouble: str | None = "not read yet"
        self.release_trouble: str | None = None
        self.vacant = False
        self._retry: tuple[int, float] = (0, 0.0)
        self._awaited: str | None = None

    def run_once(self) -> None:
        """Read the ledger once. If it cannot be read or a release cannot be loaded, the present champion stays live."""
        try:
            live = self._ledger.live()
            self.vacant = live is None
            state = self._models.state
            if live is None or (live.version == state.version and not self._incomplete(state)):
                self._set_ledger_trouble(None)
                return
            if live.version == self._retry[0] and time.monotonic() < self._retry[1]:
                self._set_ledger_trouble(None)
                return
            current = self._ledger.current_rollout(live)
        except Exception as error:  # noqa: BLE001 - database drivers raise many types
            self.vacant = False  # a release may have become live since
            self._set_ledger_trouble(f"{type(error).__name__}: {error}")
            return
        self._set_ledger_trouble(None)
        self._retry = (live.version, time.monotonic() + _RETRY_S)
        first = state.champion is None
        if first and self.release_trouble is None:
            self.release_trouble = f"release {live.champion[:12]} is live and not loaded yet"
        try:
            found = self._desired_state(live, current.rollout if current else None)
        except ReleaseError as error:
            self._set_release_trouble(live.version, str(error))
            return
        self._set_release_trouble(live.version, found.unavailable_reason)
        if found.version == state.version and found.unavailable_reason == state.unavailable_reason:
            return
        self._models.switch(found)
        self._metrics.set_live(found)
        log.info("version %s: champion %s, challenger %s", live.version, live.champion[:12], live.challenger)
        if first:
            gc.collect()
            gc.freeze()  # later collections skip what is loaded by now

    @property
    def refused(self) -> dict[str, str]:
        """The challenger that cannot be loaded, and why; at most one. While the store is unavailable the challenger is
        not listed, as it would be rolled back for that."""
        state = self._models.state
        if state.challenger_digest in (None, self._awaited) or state.unavailable_reason is None:
            return {}
        return {str(state.challenger_digest): state.unavailable_reason}

    def _desired_state(self, live: LiveRelease, rollout: Rollout | None) -> ServingState:
        """The state that the ledger says, with its releases loaded; a challenger may be missing. Raises ReleaseError
        when the champion cannot be loaded."""
        champion = self._models.load(live.champion, version=live.version)
        challenger, unavailable_reason = self._load_challenger(live)
        self._guard.set_challenger(challenger.digest if challenger else None, live.version)
        return ServingState(
            version=live.version,
            champion=champion,
            challenger=challenger,
            share=self._share(live),
            rollout=(live.rollout or f"version-{live.version}") if live.challenger else None,
            slices=_slices(rollout),
            challenger_digest=live.challenger,
            unavailable_reason=unavailable_reason,
            in_probation=rollout is not None and rollout.release == live.champion,
        )

    def _share(self, live: LiveRelease) -> float:
        """The share of the keys that the challenger answers: the ledger's, or, for a server of one release, 0 or 1."""
        if live.challenger is None:
            return 0.0
        if self._release is None:
            return live.challenger_share
        return float(live.challenger.startswith(self._release))

    def _load_challenger(self, live: LiveRelease) -> tuple[LoadedModel | None, str | None]:
        self._awaited = None
        if live.challenger is None:
            return None, None
        if (refusal := self._guard.refusal_reason(live.challenger, live.version)) is not None:
            return None, refusal
        try:
            return self._models.load(live.challenger, version=live.version), None
        except UnreachableRelease as error:
            self._awaited = live.challenger
            return None, str(error)
        except ReleaseError as error:
            return None, str(error)

    def _incomplete(self, state: ServingState) -> bool:
        return state.challenger_digest is not None and state.challenger is None

    def _set_release_trouble(self, version: int, trouble: str | None) -> None:
        if trouble and trouble != self.release_trouble:
            log.error("version %s: %s", version, trouble)
        self.release_trouble = trouble

    def _set_ledger_trouble(self, trouble: str | None) -> None:
        self._metrics.ledger_up.set(trouble is None)
        if trouble is None:
            self._metrics.ledger_read_at = time.monotonic()
        elif trouble != self.ledger_trouble:
            log.warning("ledger: %s", trouble)
        self.ledger_trouble = trouble


class DecisionMetrics:
    """Shows monitoring's newest decision in the metrics."""

    def __init__(self, ledger: Ledger, metrics: ServerMetrics) -> None:
        self._ledger, self._metrics = ledger, metrics
        self._shown: str | None = None

    def run_once(self) -> None:
        """Read the ledger once. Failures are not reported here: `LedgerFollower` does."""
        try:
            decisions = self._ledger.decisions()
        except Exception as error:  # noqa: BLE001 - database drivers raise many types
            log.debug("no decisions: %s", error)
            return
        if decisions and decisions[-1].id != self._shown:
            self._shown = decisions[-1].id
            self._metrics.set_decision(decisions[-1].period, decisions[-1].evidence)


class TelemetryMaintenance:
    """Maintains telemetry: syncs files, frees space after a failure, and compacts finished segments or uploads them to
    the store. A process of its own compacts or uploads; segments of an earlier server process are taken at once."""

    def __init__(self, recorder: Recorder, location: TelemetryLocation, *, compact_s: float, drain_s: float) -> None:
        self._recorder, self._drain_s = recorder, drain_s
        self._compactor = CompactionProcess(recorder.root, every_s=compact_s) if isinstance(location, Path) else None
        self._uploader = None if isinstance(location, Path) else UploadProcess(location)

    @property
    def compaction_trouble(self) -> str | None:
        """Why the last compaction failed, or None."""
        return self._compactor.failure if self._compactor else None

    @property
    def upload_trouble(self) -> str | None:
        """Why the last upload failed, or None."""
        return self._uploader.failure if self._uploader else None

    def run_once(self) -> None:
        """Do what is due."""
        self._recorder.maintain()
        if self._compactor is not None:
            self._compactor.run_once()
        if self._uploader is not None:
            self._uploader.run_once()

    def stop(self) -> None:
        """Stop once nothing more is recorded. A compaction is stopped at once, which is safe at any moment. An upload
        goes on until the store has everything, up to `drain_s` seconds."""
        if self._compactor is not None:
            self._compactor.stop()
        if self._uploader is not None and not self._uploader.stop(within_s=self._drain_s):
            log.error(
                "%d bytes of telemetry stay in %s, as they could not be uploaded: %s. The next server with this folder "
                "uploads them.",
                pending_bytes(self._recorder.root, with_parts=True), self._recorder.root, self.upload_trouble,
            )  # fmt: skip


def _slices(rollout: Rollout | None) -> tuple[str, ...]:
    """The columns for which the rollout's verdict is also given."""
    policy = rollout.policy if rollout is not None else None
    return tuple((policy or {}).get("slices") or ())
