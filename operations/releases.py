"""Make a release from a candidate that passed the gate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect import task

from operations.context import ProjectContext
from stores.releases import backend
from stores.releases.bundle import Bundle
from stores.releases.store import ReleaseStore
from tasks import tracking
from tasks.retries import RETRIED
from tasks.tracking import CandidateArtifacts
from trimtab.model.candidate import PROFILE_FILE, manifest_fields
from trimtab.model.release import BACKEND, CARD, MODEL, REFERENCE, SAMPLES, SCHEMA

fetch_candidate = task(name="fetch-candidate", **RETRIED)(tracking.fetch_candidate)
verify_backend = task(name="verify-backend", **RETRIED)(backend.backend_file)


class GateNotPassed(RuntimeError):
    """The candidate may not be released."""


@task(name="write-bundle", **RETRIED)
def write_bundle(
    release_store: ReleaseStore, *, manifest_fields: Mapping[str, Any], files: Mapping[str, bytes]
) -> Bundle:
    """Put a release into the store. Safe to repeat: the same content is the same release."""
    return release_store.put(manifest_fields=manifest_fields, files=files)


def require_pass(ctx: ProjectContext, run_id: str) -> str:
    """The reason for which the candidate passed the gate. Raises GateNotPassed."""
    result = ctx.ledger.gate(run_id)
    if result is None or not result.passed:
        why = result.reason if result else "it was not evaluated"
        raise GateNotPassed(f"candidate {run_id} cannot be registered: {why}")
    return result.reason


def build(ctx: ProjectContext, candidate: CandidateArtifacts, version: int, card: str) -> Bundle:
    """Build the release's bundle, put it into the store, and record it in the ledger."""
    name, record = candidate.record.project, candidate.record
    files = {f: (candidate.folder / f).read_bytes() for f in (MODEL, SCHEMA, REFERENCE, SAMPLES, PROFILE_FILE)}
    fields = manifest_fields(record, model_name=name, model_version=version, run_id=candidate.run_id)
    backend_record = verify_backend(
        model=files[MODEL], reference=files[REFERENCE], fields=fields, allow=ctx.settings.trusted_types
    )
    bundle = write_bundle(
        ctx.releases, manifest_fields=fields, files={**files, CARD: card.encode(), BACKEND: backend_record}
    )
    ctx.ledger.record_release(
        bundle.digest, model_name=name, model_version=version, run_id=candidate.run_id,
        manifest=bundle.manifest.model_dump(mode="json"),
    )  # fmt: skip
    return bundle
