"""Threads that keep the server right while it answers: one follows the ledger, one looks after telemetry."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable

from serving.metrics import Metrics
from serving.roster import Roster
from stores.bundles import ReleaseError
from stores.ledger import Ledger
from stores.telemetry import Recorder, compact

_RETRY_S = 2.0
log = logging.getLogger("trimtab.serving")


class Repeating:
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


class Follower:
    """Makes the roster what the ledger says. *trouble* is why it is not, or None."""

    def __init__(self, ledger: Ledger, roster: Roster, metrics: Metrics) -> None:
        self._ledger, self._roster, self._metrics = ledger, roster, metrics
        self.ledger_trouble: str | None = "not asked yet"
        self.release_trouble: str | None = None
        self._failed_version, self._retry_at = 0, 0.0

    def follow(self) -> None:
        """Ask once. An unreachable ledger or an unusable release leaves the present champion answering."""
        try:
            live = self._ledger.live()
        except Exception as error:  # noqa: BLE001 - whatever a database driver raises means the same here
            self._note_ledger(f"{type(error).__name__}: {error}")
            return
        self._note_ledger(None)
        if live is None or live.version == self._roster.standing.version:
            return
        first = self._roster.standing.champion is None
        if live.version == self._failed_version and time.monotonic() < self._retry_at:
            return
        trouble = self._switch(live.version, live.champion, live.challenger)
        if trouble and trouble != self.release_trouble:
            log.error("version %s: %s", live.version, trouble)
        self.release_trouble = trouble
        if self._roster.standing.version == live.version:
            self._metrics.live(self._roster.standing)
            log.info("version %s: champion %s", live.version, live.champion[:12])
            if first:
                gc.collect()
                gc.freeze()  # what is loaded by now stays: no later collection has to walk through it
        else:
            self._failed_version, self._retry_at = live.version, time.monotonic() + _RETRY_S

    def _switch(self, version: int, champion: str, challenger: str | None) -> str | None:
        """Follow; a challenger that cannot be loaded does not keep the champion from its place. Returns the trouble."""
        try:
            self._roster.switch(version, champion, challenger)
        except ReleaseError as error:
            if error.digest == challenger:
                return self._switch(version, champion, None) or str(error)
            return str(error)
        return None

    def _note_ledger(self, trouble: str | None) -> None:
        self._metrics.ledger_up.set(trouble is None)
        if trouble and trouble != self.ledger_trouble:
            log.warning("ledger: %s", trouble)
        self.ledger_trouble = trouble


class Housekeeping:
    """Looks after telemetry: room after a failure, sync, finished segments."""

    def __init__(self, recorder: Recorder, *, compact_s: float) -> None:
        self._recorder, self._compact_s = recorder, compact_s
        self._next = 0.0

    def tend(self) -> None:
        """One round; when it is time, finished segments are compacted: those of an earlier life at once."""
        self._recorder.maintain()
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + self._compact_s
            compact(self._recorder.root)
