"""Register: a candidate that passed the gate becomes a model version, and a release that can be served."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect import flow, task
from prefect.runtime import flow_run

from operations.context import load_context, short
from stores.releases import backend
from stores.releases.bundle import Bundle
from stores.releases.store import ReleaseStore
from tasks import orchestrator, tracking
from tasks.retries import RETRIED
from trimtab.model.candidate import PROFILE_FILE, manifest_fields, model_card
from trimtab.model.release import BACKEND, CARD, MODEL, REFERENCE, SAMPLES, SCHEMA

fetch_candidate = task(name="fetch-candidate", **RETRIED)(tracking.fetch_candidate)
register_version = task(name="register-version", **RETRIED)(tracking.register_version)
describe_version = task(name="describe-version", **RETRIED)(tracking.describe_version)
set_alias = task(name="set-alias", **RETRIED)(tracking.set_alias)
prove_route = task(name="prove-route", **RETRIED)(backend.backend_file)


@task(name="write-bundle", **RETRIED)
def write_bundle(
    release_store: ReleaseStore, *, manifest_fields: Mapping[str, Any], files: Mapping[str, bytes]
) -> Bundle:
    """Keep a release where all servers find it. Safe to repeat: the same content is the same release."""
    return release_store.put(manifest_fields=manifest_fields, files=files)


class GateNotPassed(RuntimeError):
    """The candidate may not be released."""


def _name() -> str:
    return f"register-{short(flow_run.parameters.get('run_id'))}"


@flow(flow_run_name=_name)
def register(run_id: str) -> str:
    """The release of a candidate; its digest. Registering it again gives the same version and the same release.

    Args:
        run_id: MLflow run of a candidate that passed the gate
    """
    ctx = load_context()
    verdict = ctx.ledger.gate(run_id)
    if verdict is None or not verdict.passed:
        why = verdict.reason if verdict else "it was not evaluated"
        raise GateNotPassed(f"candidate {run_id} cannot be registered: {why}")
    drafted = fetch_candidate(ctx.tracking, run_id, cache=ctx.cache)
    name, paper = drafted.paper.project, drafted.paper
    version = register_version(ctx.tracking, name=name, drafted=drafted, tags={"gate": "passed"})
    card = model_card(paper, name=name, version=version, verdict=verdict.reason)
    files = {f: (drafted.folder / f).read_bytes() for f in (MODEL, SCHEMA, REFERENCE, SAMPLES, PROFILE_FILE)}
    fields = manifest_fields(paper, model_name=name, model_version=version, run_id=run_id)
    route = prove_route(model=files[MODEL], reference=files[REFERENCE], fields=fields, allow=ctx.settings.trusted_types)
    bundle = write_bundle(ctx.releases, manifest_fields=fields, files={**files, CARD: card.encode(), BACKEND: route})
    ctx.ledger.record_release(
        bundle.digest, model_name=name, model_version=version, run_id=run_id,
        manifest=bundle.manifest.model_dump(mode="json"),
    )  # fmt: skip
    describe_version(
        ctx.tracking, name=name, version=version, text=card,
        tags={"release": bundle.digest, "as_of": paper.as_of, "dataset": paper.dataset},
    )  # fmt: skip
    set_alias(ctx.tracking, name=name, alias="challenger", version=version)
    orchestrator.emit(
        "trimtab.release.created",
        project=name,
        id=bundle.digest,
        payload={"release": bundle.digest, "version": version},
    )
    orchestrator.show_markdown("model-card", card, about=f"{name} version {version}, release {bundle.digest[:12]}")
    return bundle.digest
