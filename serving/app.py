"""The model server, put together: its parts, their threads, and the routes that are seldom asked. What is asked often
is answered in `serving.http.asgi`; who answers, and how, is in `serving.models.loaded`, `serving.batching.batcher` and
`serving.batching.microbatch`."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import partial
from typing import Any, TypeVar

import orjson
from fastapi import FastAPI, Response
from fastapi.responses import PlainTextResponse

from serving.background import DecisionMetrics, LedgerFollower, PeriodicThread, TelemetryMaintenance
from serving.batching.batcher import MicroBatcher
from serving.batching.microbatch import BatchScorer
from serving.codecs import arrow, json
from serving.http import schemas, verdict_routes
from serving.http.asgi import FastPath, RawRequest
from serving.http.auth import ApiKeys, KeyReloader
from serving.http.errors import as_json, install_handlers
from serving.http.openapi import patch_openapi
from serving.metrics.rollouts import RolloutMetrics
from serving.metrics.server import ServerMetrics
from serving.models.crash_guard import CrashGuard
from serving.models.loaded import LoadedModel, LoadedModels, ProbeResult
from serving.preload import Preload
from serving.settings import KeyFile, ServerSettings
from serving.verdicts import Verdicts
from stores.ledger import Ledger
from stores.releases.bundle import ReleaseError
from stores.releases.store import ReleaseStore
from stores.telemetry import Recorder, SharedTelemetry, TelemetryLocation
from stores.telemetry.parquet.files import oldest_pending_s
from stores.telemetry.remote.replica import folder_of
from trimtab.model.release import SCHEMA

T = TypeVar("T")
_JSON = b"application/json"
_SMALL_BYTES = 64 * 1024
_SMALL_ROWS = 64
_UNKNOWN: dict[int | str, dict[str, Any]] = {code: {"model": schemas.ErrorBody} for code in (404, 422)}


class ModelServer:
    """The parts of one server; `app` is what uvicorn runs."""

    def __init__(
        self,
        settings: ServerSettings,
        *,
        release_store: ReleaseStore,
        telemetry: TelemetryLocation,
        files: Mapping[str, KeyFile] | None = None,
    ) -> None:
        self.settings = settings
        self.ships = ships = isinstance(telemetry, SharedTelemetry)
        folder = folder_of(telemetry)
        self.recorder = Recorder(
            folder,
            roll_bytes=int(settings.segment_mb * 1024 * 1024),
            roll_after_s=min(settings.segment_s, settings.ship_s) if ships else settings.segment_s,
        )
        self.metrics = ServerMetrics(folder, self.recorder, ships=ships)
        self.guard = CrashGuard(folder / "lives")
        self.roster = LoadedModels(release_store, allow=settings.trusted_types, watch=self.guard.loading)
        ledger = Ledger(settings.ledger_url.get_secret_value())
        self.follower = LedgerFollower(ledger, self.roster, self.metrics, self.guard, release=settings.release)
        self.preload = Preload(settings.preload, self.roster, self.guard)
        self.housekeeping = TelemetryMaintenance(
            self.recorder, telemetry, compact_s=settings.compact_s, drain_s=settings.drain_s
        )
        self.verdicts = Verdicts(ledger, telemetry, lambda: self.follower.refused)
        keys = ApiKeys(predict=settings.predict_keys, labels=settings.labels_keys, admin=settings.admin_keys)
        self.metrics.register_keys(keys.count)
        self.key_files = KeyReloader(keys, files or {})
        self._threads = [
            PeriodicThread("keys", self.key_files.run_once, every_s=settings.keys_s),
            PeriodicThread("follower", self.follower.run_once, every_s=settings.follow_s),
            PeriodicThread("preload", self.preload.run_once, every_s=1.0),
            PeriodicThread(
                "telemetry", self.housekeeping.run_once, every_s=min(1.0, settings.ship_s / 4) if ships else 1.0
            ),
            PeriodicThread("rollouts", RolloutMetrics(ledger, self.metrics.registry).run_once, every_s=5.0),
            PeriodicThread("decisions", DecisionMetrics(ledger, self.metrics).run_once, every_s=10.0),
        ]
        self._pool = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="answer")
        self._loading = ThreadPoolExecutor(1, thread_name_prefix="load")
        self._desk = MicroBatcher(
            BatchScorer(self.recorder, self.metrics, self.guard),
            self.roster,
            self.metrics,
            self._pool,
            max_waiting=settings.max_waiting,
            answer_s=settings.answer_s,
            challenger_s=settings.challenger_s,
        )
        self.app = FastPath(
            _routes(self),
            {"/predict": self.predict, "/labels": self.labels},
            keys=keys,
            metrics=self.metrics,
            max_body_bytes=settings.max_body_bytes,
            max_held_bytes=int(settings.max_held_mb * 2**20),
            body_s=settings.answer_s,
        )

    @asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        """Threads run while the server does."""
        for thread in self._threads:
            thread.start()
        yield
        for thread in self._threads:
            await asyncio.to_thread(thread.stop)
        self._pool.shutdown(wait=False, cancel_futures=True)
        self.verdicts.close()
        self.recorder.close()
        await asyncio.to_thread(self.housekeeping.stop)
        self.guard.close()

    async def predict(self, asked: RawRequest) -> tuple[bytes, bytes]:
        """Predictions for one row or many. Few rows are answered together with those of other requests."""
        form = arrow if asked.content_type.lower().startswith(arrow.MEDIA) else json
        answer, media = (arrow.answer, arrow.MEDIA) if arrow.MEDIA in asked.accept else (json.encode, _JSON)
        ask = partial(form.question, asked.body, max_rows=self.settings.max_rows, answer=answer)
        if len(asked.body) > _SMALL_BYTES or form is arrow or media != _JSON:
            return await self._desk.ask_aside(ask), media
        question = ask()
        if question.size > _SMALL_ROWS or type(question.raw) is dict:
            return await self._desk.ask_aside(lambda: question), media
        return await self._desk.ask(question), media

    async def labels(self, asked: RawRequest) -> tuple[bytes, bytes]:
        """What predictions turned out to be."""
        record = partial(json.record_labels, asked.body, self.recorder, self.metrics, max_rows=self.settings.max_rows)
        if len(asked.body) > _SMALL_BYTES:
            counts = await asyncio.get_running_loop().run_in_executor(self._pool, record)
        else:
            counts = record()
        return orjson.dumps(asdict(counts)), _JSON

    async def load(self, digest: str) -> LoadedModel:
        """A release in memory, loaded one at a time in a thread of its own. Raises ReleaseError."""
        if (refusal := self.guard.refusal_reason(digest, self.roster.state.version)) is not None:
            raise ReleaseError(digest, refusal)
        return await self._alone(self.roster.load, digest)

    async def probe(self, digest: str) -> ProbeResult:
        """A release asked for its own samples."""
        await self.load(digest)
        return await self._alone(self.roster.probe, digest)

    async def _alone(self, work: Callable[[str], T], digest: str) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._loading, work, digest)

    def live_row(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """The JSON Schema of a row that the champion understands, and such a row."""
        champion = self.roster.state.champion
        if champion is None:
            return None
        return orjson.loads(champion.bundle.read(SCHEMA)), champion.bundle.samples[0][0]

    def unready(self) -> list[str]:
        """Why requests cannot be answered; empty when they can."""
        reasons = []
        if self.preload.trouble is not None:
            reasons.append(self.preload.trouble)
        first_deploy = self.preload.done and self.follower.vacant  # which waits for this server before anybody is live
        if self.roster.state.champion is None and not first_deploy:
            reasons.append(self.follower.release_trouble or self.follower.ledger_trouble or "no release is live yet")
        if self.recorder.write_error is not None:
            reasons.append(f"telemetry cannot be written: {self.recorder.write_error}")
        return reasons

    def described(self) -> dict[str, Any]:
        """Who answers, by which version of the ledger, and what is in memory."""
        state = self.roster.state
        loaded = [r for r in (state.champion, state.challenger) if r is not None]
        return {
            "ledger_version": state.version,
            "champion": state.champion and state.champion.digest,
            "version": state.champion and state.champion.version,
            "challenger": state.challenger_digest,
            "share": state.share,
            "rollout": state.rollout,
            "refused": self.follower.refused,
            "previous": self.roster.previous,
            "routes": {release.digest: release.route for release in loaded},
            "loaded": self.roster.digests,
        }


def _routes(server: ModelServer) -> FastAPI:
    app = FastAPI(
        title="Trimtab model server",
        description="Answers with the champion that the ledger names. Every answered prediction is in telemetry.",
        lifespan=server.lifespan,
    )
    install_handlers(app, server.metrics)
    patch_openapi(app, server.live_row)
    app.include_router(verdict_routes.routes(server.verdicts))

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
        content["keys"] = server.key_files.trouble or "ok"
        content["compaction"] = server.housekeeping.compaction_trouble or "ok"
        if server.ships:
            content["shipping"] = server.housekeeping.shipping_trouble or "ok"
            content["shipping_lag_s"] = round(oldest_pending_s(server.recorder.root, with_parts=True), 1)
        return as_json(content, 503 if reasons else 200)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def prometheus() -> Response:
        """For Prometheus."""
        server.metrics.telemetry_up.set(server.recorder.write_error is None)
        server.metrics.compaction_up.set(server.housekeeping.compaction_trouble is None)
        server.metrics.shipping_up.set(server.housekeeping.shipping_trouble is None)
        return Response(server.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/live")
    async def live() -> Response:
        """Who answers, by which version of the ledger, and what is in memory."""
        return as_json(server.described())

    @app.post("/releases/{digest}/load", response_model=schemas.LoadResponse, responses=_UNKNOWN)
    async def load(digest: str) -> Response:
        """Check a release's digests and load it beside the live one. The ledger decides who answers."""
        started = time.perf_counter()
        loaded = await server.load(digest)
        took_ms = (time.perf_counter() - started) * 1000
        return as_json({"release": digest, "version": loaded.version, "load_ms": took_ms})

    @app.post("/releases/{digest}/probe", response_model=schemas.ProbeResponse, responses=_UNKNOWN)
    async def probe(digest: str) -> Response:
        """Send a release's own sample rows through the whole path, but for telemetry."""
        return as_json(asdict(await server.probe(digest)))

    return app
