"""Routes that return a rollout's verdict: as JSON for a program that evaluates it (Argo Rollouts' web metric), and as a
status code for Flagger's webhooks, which read nothing else. `serving.verdicts` computes the verdict."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
from fastapi import APIRouter, HTTPException, Request, Response

from serving.exceptions import Overloaded
from serving.http import schemas
from serving.http.errors import as_json
from serving.verdicts import UnknownRollout, VerdictResponse, Verdicts
from stores.ledger import LedgerUnavailable

_MAX_BODY_BYTES = 64 * 1024
_ERRORS: dict[int | str, dict[str, Any]] = {code: {"model": schemas.ErrorBody} for code in (404, 503)}
_BODY = {
    "requestBody": {
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "name": {"type": "string"},
                        "namespace": {"type": "string"},
                        "phase": {"type": "string"},
                        "metadata": {
                            "type": "object",
                            "properties": {
                                "release": {
                                    "type": "string",
                                    "description": "its digest, or the first eight characters",
                                },
                                "rollout": {"type": "string"},
                            },
                        },
                    },
                }
            }
        }
    }
}

# Whether each of Flagger's hooks succeeds. Most hooks let the canary advance; `rollback` reverts it.
FLAGGER_HOOKS: dict[str, Callable[[VerdictResponse], bool]] = {
    "confirm-rollout": lambda answer: answer.ready,
    "pre-rollout": lambda answer: answer.verdict != "roll back",
    "rollout": lambda answer: answer.verdict != "roll back",
    "confirm-traffic-increase": lambda answer: answer.verdict != "roll back",
    "confirm-promotion": lambda answer: answer.verdict == "promote",
    "rollback": lambda answer: answer.verdict == "roll back",
}


def routes(verdicts: Verdicts) -> APIRouter:
    """``GET /verdict``, ``GET /verdict/{rollout}`` and ``POST /verdict/hooks/{hook}``."""
    router = APIRouter(tags=["verdict"], responses=_ERRORS)

    @router.get("/verdict", response_model=VerdictResponse)
    async def newest() -> Response:
        """The verdict on the live rollout, or else on the newest."""
        return as_json((await _ask(verdicts, None)).model_dump())

    @router.get("/verdict/{rollout}", response_model=VerdictResponse)
    async def named(rollout: str) -> Response:
        """The verdict on a rollout, or on the newest rollout of a release, by at least 8 characters of its digest."""
        return as_json((await _ask(verdicts, rollout)).model_dump())

    @router.post(
        "/verdict/hooks/{hook}",
        response_model=VerdictResponse,
        responses={code: {"model": schemas.ErrorBody} for code in (409, 413, 422)},
        openapi_extra=_BODY,
    )
    async def webhook(hook: str, request: Request) -> Response:
        """200 means yes and 409 no. Hooks: confirm-rollout, pre-rollout, rollout, confirm-traffic-increase,
        confirm-promotion, and rollback, where yes reverts the canary. `metadata.release` or `metadata.rollout` of the
        body names the rollout. 503 when the ledger or telemetry cannot be read now."""
        if hook not in FLAGGER_HOOKS:
            raise HTTPException(404, f"no such hook: it has to be one of {', '.join(FLAGGER_HOOKS)}")
        found = await _ask(verdicts, await _rollout_from_body(request))
        if found.stale:
            raise HTTPException(503, "the ledger or telemetry cannot be read just now", {"Retry-After": "1"})
        if not FLAGGER_HOOKS[hook](found):
            raise HTTPException(409, f"{hook}: no: {found.verdict}: {found.reason}")
        return as_json(found.model_dump())

    return router


async def _ask(verdicts: Verdicts, name: str | None) -> VerdictResponse:
    try:
        return await verdicts.current(name)
    except UnknownRollout as error:
        raise HTTPException(404, str(error)) from error
    except Overloaded as error:
        raise HTTPException(503, "too many requests for verdicts", {"Retry-After": "1"}) from error
    except (LedgerUnavailable, OSError) as error:
        raise HTTPException(503, f"no verdict can be given now: {error}", {"Retry-After": "1"}) from error


async def _rollout_from_body(request: Request) -> str | None:
    """The rollout or release that a webhook's body names; None for the live one. Raises HTTPException."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_BODY_BYTES:
            raise HTTPException(413, f"more than {_MAX_BODY_BYTES // 1024} KB in a webhook's body")
    try:
        content = orjson.loads(body) if body else {}
    except orjson.JSONDecodeError as error:
        raise HTTPException(422, f"the body is not JSON: {error}") from error
    metadata = content.get("metadata") or {} if isinstance(content, dict) else None
    if not isinstance(metadata, dict):
        raise HTTPException(422, 'the body must be {"metadata": {"release": …}} or empty')
    name = metadata.get("rollout") or metadata.get("release")
    if name is not None and not isinstance(name, str):
        raise HTTPException(422, "metadata.release and metadata.rollout must be texts")
    return name
