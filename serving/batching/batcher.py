"""Collects requests that arrive together into one microbatch. Fast models score it on the event loop, slow ones in a
thread. `serving.batching.batch_scorer` does the scoring itself."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from concurrent.futures import Future as Pending
from contextlib import suppress
from functools import partial

from serving.batching.batch_scorer import BatchScorer
from serving.batching.microbatch import MicroBatch, PredictRequest
from serving.exceptions import NoLiveRelease, Overloaded, PredictTimeout
from serving.metrics.server import ServerMetrics
from serving.models.inference import ChallengerResult
from serving.models.loaded import LoadedModels, ServingState
from serving.models.shadow import ShadowWorker

MAX_ROWS = 256
_MAX_DELAYS = 8  # passes of the event loop for which the first request may wait for others
_EXPIRE_EVERY_S = 0.1
_STUCK_S = 5.0
_ROWS_PER_TIMEOUT = 1000  # a large request waits for the challenger once longer for each of these
_BISECT_INLINE_S, _BISECT_THREAD_S = 0.01, 0.5  # for finding the rows that make a challenger fail


class MicroBatcher:
    """Takes requests and returns their encoded answers. Methods run on the event loop unless they say otherwise."""

    def __init__(
        self,
        scorer: BatchScorer,
        models: LoadedModels,
        metrics: ServerMetrics,
        pool: Executor,
        *,
        max_waiting: int,
        answer_s: float,
        challenger_s: float,
    ) -> None:
        self._scorer, self._models, self._metrics, self._pool = scorer, models, metrics, pool
        self._max_waiting, self._answer_s, self._challenger_s = max_waiting, answer_s, challenger_s
        self._last_size, self._counted, self._delays = 0, 0, 0
        # A thread of its own, so that small requests never wait for large ones.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="microbatch")
        self._waiting: deque[PredictRequest] = deque()
        self._in_thread: list[PredictRequest] = []
        self._large = 0
        self._scheduled = self._busy = self._expiring = False
        self._shadow: tuple[str, ShadowWorker] | None = None
        self._lock = threading.Lock()

    def submit(self, request: PredictRequest) -> asyncio.Future[bytes]:
        """The answer to a request of few rows; it is scored together with those that arrive now. Raises Overloaded."""
        if len(self._waiting) >= self._max_waiting:
            raise Overloaded
        loop = asyncio.get_running_loop()
        request.future = future = loop.create_future()
        request.deadline = time.monotonic() + self._answer_s
        self._waiting.append(request)
        if not self._scheduled and not self._busy:
            self._scheduled = True
            loop.call_soon(self._dispatch)
        return future

    async def submit_large(self, decode: Callable[[], PredictRequest]) -> bytes:
        """The answer to a request that is too large for the event loop. *decode* makes the request and is called in the
        thread that scores it. Raises Overloaded, PredictTimeout and what the request fails with."""
        if self._large >= self._max_waiting:
            raise Overloaded
        self._large += 1
        work = asyncio.get_running_loop().run_in_executor(self._pool, self._score_large, decode)
        work.add_done_callback(self._large_done)
        done, _ = await asyncio.wait([work], timeout=self._answer_s)
        if not done:
            raise PredictTimeout(self._answer_s)
        return work.result()

    def _large_done(self, work: asyncio.Future[bytes]) -> None:
        self._large -= 1
        if not work.cancelled():
            work.exception()  # after a timeout no one else reads it, and asyncio would log that

    def _dispatch(self) -> None:
        """Score the waiting requests, as many as one microbatch holds.

        When the last microbatch had several requests, this waits up to 8 passes of the event loop while more arrive:
        scoring two requests together takes hardly longer than scoring one.
        """
        is_filling = len(self._waiting) > self._counted
        if self._last_size > 1 and is_filling and self._delays < _MAX_DELAYS:
            self._counted, self._delays = len(self._waiting), self._delays + 1
            asyncio.get_running_loop().call_soon(self._dispatch)
            return
        self._scheduled, self._counted, self._delays = False, 0, 0
        if self._busy or not self._waiting:
            return
        requests, rows = self._pop_batch()
        self._last_size = len(requests)
        state = self._models.state
        try:
            if state.champion is None:
                raise NoLiveRelease
            if state.champion.can_score_inline(rows):
                self._after_champion(requests, self._scorer.score_champion(state, requests))
            else:
                self._score_in_thread(state, requests)
        except Exception as error:  # noqa: BLE001 - every request has to end, with this error if need be
            _fail(requests, error)
        self._schedule()

    def _after_champion(self, requests: list[PredictRequest], batches: Sequence[MicroBatch]) -> None:
        for batch in batches:
            self._after_scoring(batch)
        _resolve([request for request in requests if request.error is not None])

    def _schedule(self) -> None:
        if self._waiting and not self._scheduled and not self._busy:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._dispatch)

    def _pop_batch(self) -> tuple[list[PredictRequest], int]:
        requests: list[PredictRequest] = []
        rows = 0
        waiting = self._waiting
        while waiting and (not requests or rows + waiting[0].size <= MAX_ROWS):
            requests.append(waiting.popleft())
            rows += requests[-1].size
        return requests, rows

    # -- a slow champion

    def _score_in_thread(self, state: ServingState, requests: list[PredictRequest]) -> None:
        loop = asyncio.get_running_loop()
        self._busy, self._in_thread = True, requests

        def scored(work: asyncio.Future[list[MicroBatch]]) -> None:
            self._busy, self._in_thread = False, []
            try:
                self._after_champion(requests, work.result())
            except Exception as error:  # noqa: BLE001 - as in _dispatch
                _fail(requests, error)
            self._schedule()

        loop.run_in_executor(self._thread, self._scorer.score_champion, state, requests).add_done_callback(scored)
        if not self._expiring:
            self._expiring = True
            loop.call_later(_EXPIRE_EVERY_S, self._expire)

    def _expire(self) -> None:
        """Fail the requests whose deadline has passed. A later answer to them is dropped."""
        self._expiring = self._busy
        now = time.monotonic()
        late = [request for request in (*self._in_thread, *self._waiting) if request.deadline < now]
        for request in late:
            if request.future is not None and not request.future.done():
                request.future.set_exception(PredictTimeout(self._answer_s))
        if late:
            self._waiting = deque(request for request in self._waiting if request.deadline >= now)
        if self._expiring:
            asyncio.get_running_loop().call_later(_EXPIRE_EVERY_S, self._expire)

    # -- the challenger, and the answers

    def _after_scoring(self, batch: MicroBatch) -> None:
        """Answer a microbatch that the champion has scored. The challenger scores it first if rows are assigned to it,
        else after the answers are sent."""
        loop, state, rows = asyncio.get_running_loop(), batch.state, batch.rows.size
        challenger = state.challenger
        self._metrics.observe_batch(batch.champion.digest, rows, batch.champion_s)
        if batch.by_challenger is None or challenger is None:
            self._finish(batch, batch.requests)
            if state.challenger_digest is not None:
                loop.call_soon(self._shadow_score, batch)
        elif challenger.can_score_inline(rows):
            batch.result = self._scorer.score_challenger(batch, bisect_s=_BISECT_INLINE_S)
            self._finish(batch, batch.requests)
            loop.call_soon(self._scorer.record_pair, batch)
        else:
            self._finish(batch, [r for r in batch.requests if not batch.needs_challenger(r)])
            self._wait_for_challenger(batch, [r for r in batch.requests if batch.needs_challenger(r)])

    def _finish(self, batch: MicroBatch, requests: Sequence[PredictRequest]) -> None:
        self._scorer.finish(batch, requests)
        _resolve(requests)

    def _shadow_score(self, batch: MicroBatch) -> None:
        """Score an answered microbatch by the challenger."""
        challenger = batch.state.challenger
        if challenger is None or challenger.can_score_inline(batch.rows.size):
            self._score_and_record_pair(batch, _BISECT_INLINE_S)
        elif not self._submit_shadow(batch, partial(self._score_and_record_pair, batch, _BISECT_THREAD_S)):
            self._record_missing_pair(batch)

    def _wait_for_challenger(self, batch: MicroBatch, requests: list[PredictRequest]) -> None:
        """Finish *requests* once the challenger has scored, or without it after `challenger_s` seconds."""
        loop = asyncio.get_running_loop()
        finished = False

        def finish() -> None:
            nonlocal finished
            if not finished:
                finished = True
                self._finish(batch, requests)

        def scored(result: ChallengerResult) -> None:
            timer.cancel()
            batch.result = result
            finish()
            self._scorer.record_pair(batch)

        def score() -> None:
            loop.call_soon_threadsafe(scored, self._scorer.score_challenger(batch, bisect_s=_BISECT_THREAD_S))

        timer = loop.call_later(self._challenger_s, finish)
        if not self._submit_shadow(batch, score):
            timer.cancel()
            finish()
            self._record_missing_pair(batch)

    # -- in any thread

    def _score_large(self, decode: Callable[[], PredictRequest]) -> bytes:
        request, state = decode(), self._models.state
        if state.champion is None:
            raise NoLiveRelease
        for batch in self._scorer.score_champion(state, [request]):
            self._metrics.observe_batch(batch.champion.digest, batch.rows.size, batch.champion_s)
            follow_up = partial(self._score_and_record_pair, batch, _BISECT_THREAD_S)
            if batch.by_challenger is not None:
                pending: Pending[ChallengerResult] = Pending()
                follow_up = partial(self._record_pending_pair, batch, pending)
                if self._submit_shadow(batch, partial(self._score_into, batch, pending)):
                    timeout_s = self._challenger_s * max(1.0, batch.rows.size / _ROWS_PER_TIMEOUT)
                    with suppress(TimeoutError):
                        batch.result = pending.result(timeout_s)
            self._scorer.finish(batch, [request])
            if state.challenger_digest is not None and not self._submit_shadow(batch, follow_up):
                self._record_missing_pair(batch)
        if request.error is not None:
            raise request.error
        if request.answer is None:
            raise RuntimeError("a request without an answer")
        return request.answer

    def _score_into(self, batch: MicroBatch, pending: Pending[ChallengerResult]) -> None:
        pending.set_result(self._scorer.score_challenger(batch, bisect_s=_BISECT_THREAD_S))

    def _record_pending_pair(self, batch: MicroBatch, pending: Pending[ChallengerResult]) -> None:
        """Record the pair of a result that was set by an earlier task of the same thread; it is not set when that task
        was rejected."""
        if pending.done():
            batch.result = pending.result()
            self._scorer.record_pair(batch)
        else:
            self._record_missing_pair(batch)

    def _score_and_record_pair(self, batch: MicroBatch, bisect_s: float) -> None:
        batch.result = self._scorer.score_challenger(batch, bisect_s=bisect_s)
        self._scorer.record_pair(batch)

    def _submit_shadow(self, batch: MicroBatch, task: Callable[[], None]) -> bool:
        """Give *task* to the challenger's own thread; False when its queue is full."""
        digest = batch.state.challenger_digest or ""
        with self._lock:
            if self._shadow is None or self._shadow[0] != digest:
                if self._shadow is not None:
                    self._shadow[1].stop()
                self._shadow = (digest, ShadowWorker(digest[:12], self._metrics.pairs_lost.inc))
            return self._shadow[1].submit(task, rows=batch.rows.size)

    def _record_missing_pair(self, batch: MicroBatch) -> None:
        """Count a pair that is lost because the challenger's queue is full. When the challenger has been in one call
        for more than 5 s, the pair is recorded with an error instead, so that the rollout's guardrails see it."""
        shadow = self._shadow
        if shadow is not None and shadow[0] == batch.state.challenger_digest and shadow[1].stuck_s > _STUCK_S:
            batch.result = ChallengerResult.missing(batch.rows.size, f"no answer within {_STUCK_S:g} s")
            self._scorer.record_pair(batch)
        else:
            self._metrics.pairs_lost.inc(batch.rows.size)


def _fail(requests: Sequence[PredictRequest], error: Exception) -> None:
    """Set *error* for the requests that have neither an answer nor an error."""
    for request in requests:
        if request.answer is None and request.error is None:
            request.error = error
    _resolve(requests)


def _resolve(requests: Sequence[PredictRequest]) -> None:
    """Set the futures of *requests*."""
    for request in requests:
        future = request.future
        if future is None or future.done():
            continue
        if request.answer is not None:
            future.set_result(request.answer)
        else:
            future.set_exception(request.error or RuntimeError("a request without an answer"))
