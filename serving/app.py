"""The model server's HTTP surface: routes and limits. What is answered comes from `serving.answers`, who
answers from `serving.roster`; the server process itself is started in `serving.__main__`."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response

from serving import bodies
from serving.answers import Answers, TooLarge
from serving.edge import Busy, as_json, install
from serving.follower import Follower, Housekeeping, Repeating
from serving.metrics import Metrics
from serving.roster import Roster
from serving.settings import ServerSettings
from stores.ledger import Ledger
from stores.telemetry import Recorder

T = TypeVar("T")
_PATIENCE = 4


class ModelServer:
    """The parts of one server, put together; `app` is what uvicorn runs."""

    def __init__(self, settings: ServerSettings, *, releases: Path, telemetry: Path) -> None:
        self.settings = settings
        self.metrics = Metrics(telemetry)
        self.roster = Roster(releases, allow=settings.trusted_types)
        self.recorder = Recorder(
            telemetry, roll_bytes=int(settings.segment_mb * 1024 * 1024), roll_after_s=settings.segment_s
        )
        self.answers = Answers(self.roster, self.recorder, self.metrics, max_rows=settings.max_rows)
        self.follower = Follower(Ledger(settings.ledger_url.get_secret_value()), self.roster, self.metrics)
        housekeeping = Housekeeping(self.recorder, compact_s=settings.compact_s)
        self._threads = [
            Repeating("follower", self.follower.follow, every_s=settings.follow_s),
            Repeating("telemetry", housekeeping.tend, every_s=1.0),
        ]
        self._pool = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="answer")
        self._loading = ThreadPoolExecutor(1, thread_name_prefix="load")
        self._waiting = self._held_bytes = 0
        self.app = _routes(self)

    @asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        """Threads run while the server does."""
        for thread in self._threads:
            thread.start()
        yield
        for thread in self._threads:
            await asyncio.to_thread(thread.stop)
        self._pool.shutdown()
        self.recorder.close()

    async def answer(self, work: Callable[[bytes], T], request: Request) -> T:
        """Do *work* on the request's body in a thread. Raises Busy rather than let a queue or the memory that bodies
        take grow without end; reading a slow client's body is no reason to refuse others."""
        body = bytearray()
        try:
            await self._read(request, body)
            if self._waiting >= self.settings.max_waiting:
                raise Busy
            self._waiting += 1
            try:
                return await asyncio.get_running_loop().run_in_executor(self._pool, work, bytes(body))
            finally:
                self._waiting -= 1
        finally:
            self._held_bytes -= len(body)

    async def load(self, work: Callable[[str], T], digest: str) -> T:
        """Do *work* on a release, one at a time, in a thread of its own."""
        return await asyncio.get_running_loop().run_in_executor(self._loading, work, digest)

    async def _read(self, request: Request, body: bytearray) -> None:
        """Read a body. What is somewhat too large is read to its end, unkept: most clients listen only after that."""
        limit, received = self.settings.max_body_bytes, 0
        async for chunk in request.stream():
            received += len(chunk)
            if received <= limit:
                body += chunk
                self._held_bytes += len(chunk)
            elif received > limit * _PATIENCE:
                break
            if self._held_bytes > self.settings.max_held_mb * 1024 * 1024:
                raise Busy
        if received > limit:
            raise TooLarge(f"more than {self.settings.max_body_mb:g} MB in one request (TRIMTAB_MAX_BODY_MB)")

    def unready(self) -> list[str]:
        """Why requests cannot be answered; empty when they can."""
        reasons = []
        if self.roster.standing.champion is None:
            reasons.append(self.follower.release_trouble or self.follower.ledger_trouble or "no release is live yet")
        if self.recorder.failure is not None:
            reasons.append(f"telemetry cannot be written: {self.recorder.failure}")
        return reasons


def _routes(server: ModelServer) -> FastAPI:
    app = FastAPI(
        title="Trimtab model server",
        description="Answers with the champion that the ledger names. Every answered prediction is in telemetry.",
        lifespan=server.lifespan,
        responses={code: {"model": bodies.ErrorAnswer} for code in (413, 422, 503)},
    )
    metrics = server.metrics
    install(app, metrics, server.settings.api_key)

    @app.post("/predict", response_model=bodies.PredictAnswer, openapi_extra=_takes(bodies.PredictRequest))
    async def predict(request: Request) -> Response:
        """Predictions for one row or many, by the champion."""
        return Response(await server.answer(server.answers.predict, request), media_type="application/json")

    @app.post("/labels", response_model=bodies.LabelsAnswer, openapi_extra=_takes(bodies.LabelsRequest))
    async def labels(request: Request) -> Response:
        """What predictions turned out to be, by their ids; late or twice without harm."""
        return as_json(asdict(await server.answer(server.answers.labels, request)))

    @app.get("/health")
    async def health() -> dict[str, str]:
        """The process is alive."""
        return {"status": "alive"}

    @app.get("/ready")
    async def ready() -> Response:
        """Requests can be answered and recorded."""
        reasons = server.unready()
        ledger = server.follower.ledger_trouble or "ok"
        release = server.follower.release_trouble or "ok"
        content = {"ready": not reasons, "reasons": reasons, "ledger": ledger, "release": release}
        return as_json(content, 503 if reasons else 200)

    @app.get("/metrics")
    async def prometheus() -> Response:
        """For Prometheus."""
        metrics.telemetry_up.set(server.recorder.failure is None)
        metrics.written.set(server.recorder.written_bytes)
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/live")
    async def live() -> Response:
        """Who answers, by which version of the ledger, and what is in memory."""
        standing = server.roster.standing
        return as_json(
            {
                "ledger_version": standing.version,
                "champion": standing.champion and standing.champion.digest,
                "version": standing.champion and standing.champion.bundle.manifest.model_version,
                "challenger": standing.challenger and standing.challenger.digest,
                "previous": server.roster.previous,
                "loaded": server.roster.digests,
            }
        )

    @app.post("/releases/{digest}/load", response_model=bodies.LoadAnswer)
    async def load(digest: str) -> Response:
        """Check a release's digests and load it beside the live one. The ledger decides who answers."""
        started = time.perf_counter()
        loaded = await server.load(server.roster.load, digest)
        took_ms = (time.perf_counter() - started) * 1000
        return as_json({"release": digest, "version": loaded.bundle.manifest.model_version, "load_ms": took_ms})

    @app.post("/releases/{digest}/probe", response_model=bodies.ProbeAnswer)
    async def probe(digest: str) -> Response:
        """Send a release's own sample rows through the whole path, but for telemetry."""
        return as_json(asdict(await server.load(server.roster.probe, digest)))

    return app


def _takes(body: type[Any]) -> dict[str, Any]:
    schema = body.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
