"""Register: a candidate that passed the gate becomes a model version, and a release that can be served."""

from __future__ import annotations

from prefect import flow, task
from prefect.runtime import flow_run

from operations import releases
from operations.context import load_context, short
from operations.releases import fetch_candidate
from tasks import orchestrator, tracking
from tasks.best_effort import best_effort
from tasks.retries import RETRIED
from trimtab.model.candidate import model_card

register_version = task(name="register-version", **RETRIED)(tracking.register_version)
describe_version = task(name="describe-version", **RETRIED)(tracking.describe_version)


def _name() -> str:
    return f"register-{short(flow_run.parameters.get('run_id'))}"


@flow(flow_run_name=_name)
def register(run_id: str) -> str:
    """Make a release from a candidate; its digest. The same candidate again gives the same version and release.

    Args:
        run_id: MLflow run of a candidate that passed the gate
    """
    ctx = load_context()
    reason = releases.require_pass(ctx, run_id)
    candidate = fetch_candidate(ctx.tracking, run_id, cache=ctx.cache)
    name, record = candidate.record.project, candidate.record
    version = register_version(ctx.tracking, name=name, drafted=candidate, tags={"gate": "passed"})
    card = model_card(record, name=name, version=version, verdict=reason)
    release = releases.build(ctx, candidate, version, card)
    with best_effort("the description of the model version"):
        describe_version(
            ctx.tracking, name=name, version=version, text=card,
            tags={"release": release.digest, "as_of": record.as_of, "dataset": record.dataset},
        )  # fmt: skip
    ctx.emit("trimtab.release.created", id=release.digest, payload={"release": release.digest, "version": version})
    orchestrator.show_markdown("model-card", card, about=f"{name} version {version}, release {short(release.digest)}")
    return release.digest
