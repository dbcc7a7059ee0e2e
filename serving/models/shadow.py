"""A thread of its own for a challenger that is too slow, or too little known, to be asked where users wait."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable

log = logging.getLogger("trimtab.serving")
_WAITING = 64
_WAITING_ROWS = 50_000


class ShadowWorker:
    """Does one thing after another in a daemon thread. What does not fit in the queue is refused, so a challenger that
    cannot keep up costs no memory. *drop* is told how many rows are given up when it is stopped."""

    def __init__(self, name: str, drop: Callable[[int], None]) -> None:
        self._drop, self._stopped = drop, False
        self._queue: queue.SimpleQueue[tuple[Callable[[], None], int] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting = self._rows = 0
        self._since: float | None = None
        threading.Thread(target=self._run, name=f"challenger {name}", daemon=True).start()

    def submit(self, work: Callable[[], None], *, rows: int) -> bool:
        """Have *work* done soon; False when too much is waiting already."""
        with self._lock:
            if self._waiting and (self._waiting >= _WAITING or self._rows + rows > _WAITING_ROWS):
                return False
            self._waiting += 1
            self._rows += rows
        self._queue.put((work, rows))
        return True

    @property
    def stuck_s(self) -> float:
        """How long the present work has been going on; 0 when there is none."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    def stop(self) -> None:
        """Do nothing more once the present work is done. One that never is keeps its thread, and nothing else."""
        self._stopped = True
        self._queue.put(None)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            work, rows = item
            self._since = time.monotonic()
            try:
                if self._stopped:
                    self._drop(rows)
                else:
                    work()
            except Exception:
                log.exception("what was done beside the answers failed")
            self._since = None
            with self._lock:
                self._waiting -= 1
                self._rows -= rows
