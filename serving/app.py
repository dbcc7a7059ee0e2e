"""The model server as a whole: its parts, their threads, and the rarely called routes. `serving.http.asgi` answers the
frequent ones."""

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
from serving.batching.batch_scorer import BatchScorer
from serving.batching.batcher import MicroBatcher
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
from trimtab.data.labels import LabelRule, rule_of
from trimtab.model.release import SCHEMA

T = TypeVar("T")
_JSON = b"application/json"
_SMALL_BYTES = 64 * 1024
_SMALL_ROWS = 64
_ERRORS: dict[int | str, dict[str, Any]] = {code: {"model": schemas.ErrorBody} for code in (404, 422)}


class ModelServer:
    """The parts of one server; `app` is the ASGI application that uvicorn runs."""

    def __init__(
        self,
        settings: ServerSettings,
        *,
        release_store: ReleaseStore,
        telemetry: TelemetryLocation,
        files: Mapping[str, KeyFile] | None = None,
    ) -> None:
        self.settings = settings
        self.uploads = uploads = isinstance(telemetry, SharedTelemetry)
        folder = folder_of(telemetry)
        self.recorder = Recorder(
            folder,
            roll_bytes=int(settings.segment_mb * 1024 * 1024),
            roll_after_s=min(settings.segment_s, settings.upload_s) if uploads else settings.segment_s,
        )
        self.metrics = ServerMetrics(folder, self.recorder, uploads=uploads)
        self.guard = CrashGuard(folder / "crash_guard")
        self.models = LoadedModels(release_store, allow=settings.trusted_types, watch=self.guard.loading)
        ledger = Ledger(settings.ledger_url.get_secret_value())
        self.follower = LedgerFollower(ledger, self.models, self.metrics, self.guard, release=settings.release)
        self.preload = Preload(settings.preload, self.models, self.guard)
        self.maintenance = TelemetryMaintenance(
            self.recorder, telemetry, compact_s=settings.compact_s, drain_s=settings.drain_s
        )
        self.verdicts = Verdicts(ledger, telemetry, lambda: self.follower.refused)
        keys = ApiKeys(predict=settings.predict_keys, labels=settings.labels_keys, admin=settings.admin_keys)
        self.metrics.register_keys(keys.count)
        self.key_reloader = KeyReloader(keys, files or {})
        self._threads = [
            PeriodicThread("keys", self.key_reloader.run_once, every_s=settings.keys_s),
            PeriodicThread("follower", self.follower.run_once, every_s=settings.follow_s),
            PeriodicThread("preload", self.preload.run_once, every_s=1.0),
            PeriodicThread(
                "telemetry", self.maintenance.run_once, every_s=min(1.0, settings.upload_s / 4) if uploads else 1.0
            ),
            PeriodicThread("rollouts", RolloutMetrics(ledger, self.metrics.registry).run_once, every_s=5.0),
            PeriodicThread("decisions", DecisionMetrics(ledger, self.metrics).run_once, every_s=10.0),
        ]
        self._pool = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="large")
        self._load_pool = ThreadPoolExecutor(1, thread_name_prefix="load")
        self._batcher = MicroBatcher(
            BatchScorer(self.recorder, self.metrics, self.guard),
            self.models,
            self.metrics,
            self._pool,
            max_waiting=settings.max_waiting,
            answer_s=settings.answer_s,
            challenger_s=settings.challenger_s,
        )
        self._labels_of: tuple[object, LabelRule | None] = (None, None)
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
        """Run the background threads while the server runs."""
        for thread in self._threads:
            thread.start()
        yield
        for thread in self._threads:
            await asyncio.to_thread(thread.stop)
        self._pool.shutdown(wait=False, cancel_futures=True)
        self.verdicts.close()
        self.recorder.close()
        await asyncio.to_thread(self.maintenance.stop)
        self.guard.close()

    async def predict(self, request: RawRequest) -> tuple[bytes, bytes]:
        """The answer to ``POST /predict`` and its media type. Small requests are scored together with others; those of
        over 64 KiB or 64 rows, by column or in Arrow are scored in a thread of their own."""
        codec = arrow if request.content_type.lower().startswith(arrow.MEDIA) else json
        encoder, media = (arrow.encode, arrow.MEDIA) if arrow.MEDIA in request.accept else (json.encode, _JSON)
        decode = partial(codec.decode, request.body, max_rows=self.settings.max_rows, encoder=encoder)
        if len(request.body) > _SMALL_BYTES or codec is arrow or media != _JSON:
            return await self._batcher.submit_large(decode), media
        pending = decode()
        if pending.size > _SMALL_ROWS or type(pending.raw) is dict:
            return await self._batcher.submit_large(lambda: pending), media
        return await self._batcher.submit(pending), media

    async def labels(self, request: RawRequest) -> tuple[bytes, bytes]:
        """The answer to ``POST /labels``: counts of what was recorded."""
        record = partial(
            json.record_labels, request.body, self.recorder, self.metrics, max_rows=self.settings.max_rows,
            rule=self._label_rule(),
        )  # fmt: skip
        if len(request.body) > _SMALL_BYTES:
            counts = await asyncio.get_running_loop().run_in_executor(self._pool, record)
        else:
            counts = record()
        return orjson.dumps(asdict(counts)), _JSON

    def _label_rule(self) -> LabelRule | None:
        """How labels of the live releases are read; None before there is one. A challenger may know more classes."""
        state = self.models.state
        if self._labels_of[0] is not state:
            manifests = [m.bundle.manifest for m in (state.champion, state.challenger) if m]
            classes = [label for manifest in manifests for label in manifest.classes]
            first = manifests[0] if manifests else None
            rule = None if first is None else rule_of(first.task, classes, spellings=first.spellings)
            self._labels_of = (state, rule)
        return self._labels_of[1]

    async def load(self, digest: str) -> LoadedModel:
        """Load a release, in a thread that loads one at a time. Raises ReleaseError."""
        if (refusal := self.guard.refusal_reason(digest, self.models.state.version)) is not None:
            raise ReleaseError(digest, refusal)
        return await self._in_load_pool(self.models.load, digest)

    async def probe(self, digest: str) -> ProbeResult:
        """Load a release and score its own samples. Raises ReleaseError."""
        await self.load(digest)
        return await self._in_load_pool(self.models.probe, digest)

    async def _in_load_pool(self, work: Callable[[str], T], digest: str) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._load_pool, work, digest)

    def live_row(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """The JSON Schema of the champion's rows and an example row; None when no release is live."""
        champion = self.models.state.champion
        if champion is None:
            return None
        return orjson.loads(champion.bundle.read(SCHEMA)), champion.bundle.samples[0][0]

    def unready_reasons(self) -> list[str]:
        """Why requests cannot be answered; empty when the server is ready."""
        reasons = []
        if self.preload.trouble is not None:
            reasons.append(self.preload.trouble)
        # The first deploy waits until this server is ready before it makes its release live.
        first_deploy = self.preload.done and self.follower.vacant
        if self.models.state.champion is None and not first_deploy:
            reasons.append(self.follower.release_trouble or self.follower.ledger_trouble or "no release is live yet")
        if self.recorder.write_error is not None:
            reasons.append(f"telemetry cannot be written: {self.recorder.write_error}")
        return reasons

    def live(self) -> dict[str, Any]:
        """The live releases, the ledger version they come from, and all releases in memory."""
        state = self.models.state
        loaded = [r for r in (state.champion, state.challenger) if r is not None]
        return {
            "ledger_version": state.version,
            "champion": state.champion and state.champion.digest,
            "version": state.champion and state.champion.version,
            "challenger": state.challenger_digest,
            "share": state.share,
            "rollout": state.rollout,
            "refused": self.follower.refused,
            "previous": self.models.previous,
            "backends": {release.digest: release.backend for release in loaded},
            "loaded": self.models.digests,
        }


def _routes(server: ModelServer) -> FastAPI:
    app = FastAPI(
        title="Trimtab model server",
        description="Answers with the champion that the ledger names. Telemetry has every answered prediction.",
        lifespan=server.lifespan,
    )
    install_handlers(app, server.metrics)
    patch_openapi(app, server.live_row)
    app.include_router(verdict_routes.routes(server.verdicts))

    @app.get("/health")
    async def health() -> dict[str, str]:
        """The process is running."""
        return {"status": "alive"}

    @app.get("/ready")
    async def ready() -> Response:
        """Requests can be answered and recorded."""
        reasons = server.unready_reasons()
        ledger = server.follower.ledger_trouble or "ok"
        release = server.follower.release_trouble or "ok"
        content = {"ready": not reasons, "reasons": reasons, "ledger": ledger, "release": release}
        content["keys"] = server.key_reloader.trouble or "ok"
        content["compaction"] = server.maintenance.compaction_trouble or "ok"
        if server.uploads:
            content["upload"] = server.maintenance.upload_trouble or "ok"
            content["upload_lag_s"] = round(oldest_pending_s(server.recorder.root, with_parts=True), 1)
        return as_json(content, 503 if reasons else 200)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def prometheus() -> Response:
        """Metrics in Prometheus' text format."""
        server.metrics.telemetry_up.set(server.recorder.write_error is None)
        server.metrics.compaction_up.set(server.maintenance.compaction_trouble is None)
        server.metrics.upload_up.set(server.maintenance.upload_trouble is None)
        return Response(server.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/live")
    async def live() -> Response:
        """The live releases, the ledger version they come from, and all releases in memory."""
        return as_json(server.live())

    @app.post("/releases/{digest}/load", response_model=schemas.LoadResponse, responses=_ERRORS)
    async def load(digest: str) -> Response:
        """Check a release's digests and load it into memory. The ledger decides what is live."""
        started = time.perf_counter()
        loaded = await server.load(digest)
        took_ms = (time.perf_counter() - started) * 1000
        return as_json({"release": digest, "version": loaded.version, "load_ms": took_ms})

    @app.post("/releases/{digest}/probe", response_model=schemas.ProbeResponse, responses=_ERRORS)
    async def probe(digest: str) -> Response:
        """Load a release and score its own sample rows; nothing is recorded."""
        return as_json(asdict(await server.probe(digest)))

    return app
