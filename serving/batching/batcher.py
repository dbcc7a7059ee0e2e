"""Who waits for what: requests that arrive together become one round, on the event loop while the models are quick, in
a thread when they are not. What a round is and how it is answered is `serving.batching.microbatch`' business."""

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

from serving.batching.microbatch import BatchScorer, MicroBatch, PredictRequest
from serving.exceptions import NoLiveRelease, Overloaded, PredictTimeout
from serving.metrics.server import ServerMetrics
from serving.models.inference import ChallengerResult, absent
from serving.models.loaded import LoadedModels, ServingState
from serving.models.shadow import ShadowWorker

MOST_ROWS = 256
_MOST_PASSES = 8  # of the event loop, that the first of a round may wait for others
_SWEEP_S = 0.1
_STUCK_S = 5.0
_PATIENCE_ROWS = 1000
_PATIENCE_S, _PATIENCE_ASIDE_S = 0.01, 0.5  # for finding out which rows a challenger cannot take


class MicroBatcher:
    """Takes questions and gives answers. Everything here runs on the event loop, but for what says otherwise."""

    def __init__(
        self,
        rounds: BatchScorer,
        roster: LoadedModels,
        metrics: ServerMetrics,
        pool: Executor,
        *,
        max_waiting: int,
        answer_s: float,
        challenger_s: float,
    ) -> None:
        self._rounds, self._roster, self._metrics, self._pool = rounds, roster, metrics, pool
        self._max_waiting, self._answer_s, self._challenger_s = max_waiting, answer_s, challenger_s
        self._lately, self._counted, self._passes = 0, 0, 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="round")  # so that few rows never wait for many
        self._waiting: deque[PredictRequest] = deque()
        self._asked: list[PredictRequest] = []
        self._large = 0
        self._flushing = self._busy = self._sweeping = False
        self._aside: tuple[str, ShadowWorker] | None = None
        self._lock = threading.Lock()

    def ask(self, question: PredictRequest) -> asyncio.Future[bytes]:
        """The answer to a question of few rows, which will be answered together with those that arrive now."""
        if len(self._waiting) >= self._max_waiting:
            raise Overloaded
        loop = asyncio.get_running_loop()
        question.future = future = loop.create_future()
        question.deadline = time.monotonic() + self._answer_s
        self._waiting.append(question)
        if not self._flushing and not self._busy:
            self._flushing = True
            loop.call_soon(self._flush)
        return future

    async def ask_aside(self, ask: Callable[[], PredictRequest]) -> bytes:
        """The answer to a question that is so large that understanding it would keep others waiting; *ask* makes it, in
        the thread that answers it."""
        if self._large >= self._max_waiting:
            raise Overloaded
        self._large += 1
        work = asyncio.get_running_loop().run_in_executor(self._pool, self._answer_large, ask)
        work.add_done_callback(self._large_done)
        done, _ = await asyncio.wait([work], timeout=self._answer_s)
        if not done:
            raise PredictTimeout(self._answer_s)
        return work.result()

    def _large_done(self, work: asyncio.Future[bytes]) -> None:
        self._large -= 1
        if not work.cancelled():
            work.exception()  # whoever asked may have given up, and nobody else looks

    def _flush(self) -> None:
        """Answer what is waiting, as much of it as one round holds. Where others ask at the same time, as lately, those
        that the loop is just reading are waited for: a round for two costs hardly more than one for one."""
        is_filling = len(self._waiting) > self._counted
        if self._lately > 1 and is_filling and self._passes < _MOST_PASSES:
            self._counted, self._passes = len(self._waiting), self._passes + 1
            asyncio.get_running_loop().call_soon(self._flush)
            return
        self._flushing, self._counted, self._passes = False, 0, 0
        if self._busy or not self._waiting:
            return
        questions, rows = self._take()
        self._lately = len(questions)
        state = self._roster.state
        try:
            if state.champion is None:
                raise NoLiveRelease
            if state.champion.can_score_inline(rows):
                self._opened(questions, self._rounds.open(state, questions))
            else:
                self._open_in_thread(state, questions)
        except Exception as error:  # noqa: BLE001 - told to everybody who asked: nobody must wait for ever
            _fail(questions, error)
        self._more()

    def _opened(self, questions: list[PredictRequest], rounds: Sequence[MicroBatch]) -> None:
        for round in rounds:
            self._go_on(round)
        _settle([question for question in questions if question.error is not None])

    def _more(self) -> None:
        if self._waiting and not self._flushing and not self._busy:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _take(self) -> tuple[list[PredictRequest], int]:
        questions: list[PredictRequest] = []
        rows = 0
        waiting = self._waiting
        while waiting and (not questions or rows + waiting[0].size <= MOST_ROWS):
            questions.append(waiting.popleft())
            rows += questions[-1].size
        return questions, rows

    # -- a champion that is slow

    def _open_in_thread(self, state: ServingState, questions: list[PredictRequest]) -> None:
        loop = asyncio.get_running_loop()
        self._busy, self._asked = True, questions

        def opened(work: asyncio.Future[list[MicroBatch]]) -> None:
            self._busy, self._asked = False, []
            try:
                self._opened(questions, work.result())
            except Exception as error:  # noqa: BLE001 - as above
                _fail(questions, error)
            self._more()

        loop.run_in_executor(self._thread, self._rounds.open, state, questions).add_done_callback(opened)
        if not self._sweeping:
            self._sweeping = True
            loop.call_later(_SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        """Tell those whose time is over; their answers, if they come, go nowhere."""
        self._sweeping = self._busy
        now = time.monotonic()
        late = [question for question in (*self._asked, *self._waiting) if question.deadline < now]
        for question in late:
            if question.future is not None and not question.future.done():
                question.future.set_exception(PredictTimeout(self._answer_s))
        if late:
            self._waiting = deque(question for question in self._waiting if question.deadline >= now)
        if self._sweeping:
            asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)

    # -- from the champion's scores to answers

    def _go_on(self, round: MicroBatch) -> None:
        """Answer a round that the champion has scored; the challenger comes before where it has rows to answer, and
        after otherwise."""
        loop, state, rows = asyncio.get_running_loop(), round.state, round.rows.size
        challenger = state.challenger
        self._metrics.observe_batch(round)
        if round.by_challenger is None or challenger is None:
            self._close(round, round.questions)
            if state.challenger_digest is not None:
                loop.call_soon(self._follow_up, round)
        elif challenger.can_score_inline(rows):
            round.outcome = self._rounds.challenge(round, patience_s=_PATIENCE_S)
            self._close(round, round.questions)
            loop.call_soon(self._rounds.pair, round)
        else:
            self._close(round, [q for q in round.questions if not round.concerns_challenger(q)])
            self._wait_for_challenger(round, [q for q in round.questions if round.concerns_challenger(q)])

    def _close(self, round: MicroBatch, questions: Sequence[PredictRequest]) -> None:
        self._rounds.close(round, questions)
        _settle(questions)

    def _follow_up(self, round: MicroBatch) -> None:
        """The answers are out: have the challenger score the round as well."""
        challenger = round.state.challenger
        if challenger is None or challenger.can_score_inline(round.rows.size):
            self._challenge_and_pair(round, _PATIENCE_S)
        elif not self._submit(round, partial(self._challenge_and_pair, round, _PATIENCE_ASIDE_S)):
            self._missed(round)

    def _wait_for_challenger(self, round: MicroBatch, questions: list[PredictRequest]) -> None:
        """Close *questions* once the challenger has answered, or with the champion's answers when it takes too long."""
        loop = asyncio.get_running_loop()
        closed = False

        def close() -> None:
            nonlocal closed
            if not closed:
                closed = True
                self._close(round, questions)

        def arrive(outcome: ChallengerResult) -> None:
            timer.cancel()
            round.outcome = outcome
            close()
            self._rounds.pair(round)

        def challenge() -> None:
            loop.call_soon_threadsafe(arrive, self._rounds.challenge(round, patience_s=_PATIENCE_ASIDE_S))

        timer = loop.call_later(self._challenger_s, close)
        if not self._submit(round, challenge):
            timer.cancel()
            close()
            self._missed(round)

    # -- in whatever thread

    def _answer_large(self, ask: Callable[[], PredictRequest]) -> bytes:
        question, state = ask(), self._roster.state
        if state.champion is None:
            raise NoLiveRelease
        for round in self._rounds.open(state, [question]):
            self._metrics.observe_batch(round)
            follow_up = partial(self._challenge_and_pair, round, _PATIENCE_ASIDE_S)
            if round.by_challenger is not None:
                arrived: Pending[ChallengerResult] = Pending()
                follow_up = partial(self._pair_arrived, round, arrived)
                if self._submit(round, partial(self._challenge_into, round, arrived)):
                    with suppress(TimeoutError):
                        round.outcome = arrived.result(self._challenger_s * max(1.0, round.rows.size / _PATIENCE_ROWS))
            self._rounds.close(round, [question])
            if state.challenger_digest is not None and not self._submit(round, follow_up):
                self._missed(round)
        if question.error is not None:
            raise question.error
        if question.answer is None:
            raise RuntimeError("a question without an answer")
        return question.answer

    def _challenge_into(self, round: MicroBatch, arrived: Pending[ChallengerResult]) -> None:
        arrived.set_result(self._rounds.challenge(round, patience_s=_PATIENCE_ASIDE_S))

    def _pair_arrived(self, round: MicroBatch, arrived: Pending[ChallengerResult]) -> None:
        """The challenger's thread does one thing after another, so its outcome is there unless it was never asked."""
        if arrived.done():
            round.outcome = arrived.result()
            self._rounds.pair(round)
        else:
            self._missed(round)

    def _challenge_and_pair(self, round: MicroBatch, patience_s: float) -> None:
        round.outcome = self._rounds.challenge(round, patience_s=patience_s)
        self._rounds.pair(round)

    def _submit(self, round: MicroBatch, work: Callable[[], None]) -> bool:
        """Give *work* to the challenger's own thread; False when too much is waiting there."""
        digest = round.state.challenger_digest or ""
        with self._lock:
            if self._aside is None or self._aside[0] != digest:
                if self._aside is not None:
                    self._aside[1].stop()
                self._aside = (digest, ShadowWorker(digest[:12], self._metrics.pairs_lost.inc))
            return self._aside[1].submit(work, rows=round.rows.size)

    def _missed(self, round: MicroBatch) -> None:
        """There will be no pair, as more is asked of the challenger than it can answer; it is counted. But a challenger
        that has been at one call for seconds owes the answer, and the pair says so: the rollout's guardrails see it."""
        aside = self._aside
        if aside is not None and aside[0] == round.state.challenger_digest and aside[1].stuck_s > _STUCK_S:
            round.outcome = absent(round.rows.size, f"no answer within {_STUCK_S:g} s")
            self._rounds.pair(round)
        else:
            self._metrics.pairs_lost.inc(round.rows.size)


def _fail(questions: Sequence[PredictRequest], error: Exception) -> None:
    """Tell *error* to those who have neither an answer nor an error of their own."""
    for question in questions:
        if question.answer is None and question.error is None:
            question.error = error
    _settle(questions)


def _settle(questions: Sequence[PredictRequest]) -> None:
    """Wake up who asked."""
    for question in questions:
        future = question.future
        if future is None or future.done():
            continue
        if question.answer is not None:
            future.set_result(question.answer)
        else:
            future.set_exception(question.error or RuntimeError("a question without an answer"))
