"""Threads that keep the server right while it answers: one follows the ledger, one looks after telemetry."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from serving.metrics import Metrics
from serving.roster import Roster
from stores.bundles import ReleaseError
from stores.ledger import Ledger
from stores.telemetry import Recorder, compact

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

    def follow(self) -> None:
        """Ask once. An unreachable ledger or an unusable release leaves the present champion answering."""
        try:
            live = self._ledger.live()
        except Exception as error:  # noqa: BLE001 - whatever a database driver raises means the same here
            self._note_ledger(f"{type(error).__name__}: {error}")
            return
        self._note_ledger(None)
        standing = self._roster.standing
        if live is None or live.version == standing.version:
            return
        try:
            self._roster.switch(live.version, live.champion, live.challenger)
        except ReleaseError as error:
            if str(error) != self.release_trouble:
                log.error("cannot follow the ledger to version %s: %s", live.version, error)
            self.release_trouble = str(error)
            return
        self.release_trouble = None
        self._metrics.live(self._roster.standing)
        log.info("version %s: champion %s", live.version, live.champion[:12])

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
