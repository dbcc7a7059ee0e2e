"""Background thread that scores slow challengers."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable

log = logging.getLogger("trimtab.serving")
_MAX_TASKS = 64
_MAX_ROWS = 50_000


class ShadowWorker:
    """Runs tasks one after another in a daemon thread.

    The queue is bounded, so a challenger that is too slow uses no more memory. After `stop` the queued tasks are
    dropped, and *on_drop* is called with the number of rows of each.
    """

    def __init__(self, name: str, on_drop: Callable[[int], None]) -> None:
        self._on_drop, self._stopped = on_drop, False
        self._queue: queue.SimpleQueue[tuple[Callable[[], None], int] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting = self._rows = 0
        self._since: float | None = None
        threading.Thread(target=self._run, name=f"challenger {name}", daemon=True).start()

    def submit(self, task: Callable[[], None], *, rows: int) -> bool:
        """Queue *task*, which scores *rows* rows; False when the queue is full."""
        with self._lock:
            if self._waiting and (self._waiting >= _MAX_TASKS or self._rows + rows > _MAX_ROWS):
                return False
            self._waiting += 1
            self._rows += rows
        self._queue.put((task, rows))
        return True

    @property
    def stuck_s(self) -> float:
        """Seconds since the running task began; 0 when none is running."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    def stop(self) -> None:
        """Start no further task. A running task that never returns keeps its thread."""
        self._stopped = True
        self._queue.put(None)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            task, rows = item
            self._since = time.monotonic()
            try:
                if self._stopped:
                    self._on_drop(rows)
                else:
                    task()
            except Exception:
                log.exception("a task of the challenger's thread failed")
            self._since = None
            with self._lock:
                self._waiting -= 1
                self._rows -= rows
