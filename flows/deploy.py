"""Deploy: a release takes over, after it was loaded beside the champion and probed. Then, in one transaction, the
ledger says that it answers; servers and MLflow's alias follow the ledger."""

from __future__ import annotations

from prefect import flow, task
from prefect.runtime import flow_run

from flows.door import Here, here, short
from stores import bundles
from stores.ledger import Live
from tasks import alerts, modelserver, orchestrator, tracking
from tasks.policy import OUTSIDE

load_release = task(name="load-release", **OUTSIDE)(modelserver.load)
probe_release = task(name="probe-release", **OUTSIDE)(modelserver.probe)
wait_until_live = task(name="wait-until-live", **OUTSIDE)(modelserver.wait_until_live)
crown = task(name="crown", **OUTSIDE)(tracking.crown)


class RolloutStopped(RuntimeError):
    """The release did not become champion; the champion was not touched."""


class NoSuchRelease(LookupError):
    """The ledger knows no release, or several, by that name."""


def _name() -> str:
    return f"deploy-{short(flow_run.parameters.get('release'))}"


@flow(flow_run_name=_name)
def deploy(release: str, cause: str = "asked for by hand") -> int:
    """Make *release* the champion; the ledger's version number. Doing it again changes nothing.

    Args:
        release: digest of a release, or its first characters
        cause: why, for the history
    """
    place = here()
    digest = known_release(place, release)
    before = place.ledger.live()
    if before and before.champion == digest:
        print(f"{short(digest)} is live already.")
        follow(place, before)
        return before.version
    rollout = start(place, digest, before, cause)
    try:
        bundles.open_bundle(place.settings.releases, digest)  # also when the server has it in memory since long ago
        load_release(place.settings.model_server, digest)
        found = probe_release(place.settings.model_server, digest)
    except (bundles.ReleaseError, modelserver.ServerRefused) as refusal:
        stop(place, rollout, digest, str(refusal))
        raise RolloutStopped(f"{short(digest)} was not deployed, the champion goes on: {refusal}") from refusal
    place.ledger.step_rollout(rollout, 2, "probed", found)
    now = place.ledger.switch(
        digest, expected=before.version if before else 0, move="promote", reason=cause, actor=orchestrator.me(),
        rollout=rollout,
    )  # fmt: skip
    place.ledger.step_rollout(rollout, 3, "champion", {"version": now.version})
    follow(place, now)
    orchestrator.tell(
        "trimtab.rollout.promoted", project=place.params.project.name, id=rollout,
        payload={"release": digest, "version": now.version, "cause": cause},
    )  # fmt: skip
    return now.version


def known_release(place: Here, text: str) -> str:
    """The digest that *text* begins. Raises NoSuchRelease."""
    found = place.ledger.release(text)
    if found is None:
        raise NoSuchRelease(f"no release, or more than one, begins with {text!r}: `trimtab history` lists them")
    return str(found["digest"])


def start(place: Here, digest: str, before: Live | None, cause: str) -> str:
    """The rollout from this champion to that release; the same one when it was started before and interrupted."""
    name, attempt = f"{digest[:16]}-after-{before.version if before else 0}", 1
    while any(step["state"] == "rolled back" for step in place.ledger.rollout_steps(f"{name}-{attempt}")):
        attempt += 1
    rollout = f"{name}-{attempt}"
    place.ledger.start_rollout(
        rollout, release=digest, champion_before=before.champion if before else None, strategy="switch", cause=cause
    )
    place.ledger.step_rollout(rollout, 1, "started")
    return rollout


def stop(place: Here, rollout: str, digest: str, why: str) -> None:
    """Record and tell that the release was refused."""
    place.ledger.step_rollout(rollout, 2, "rolled back", {"reason": why})
    project = place.params.project.name
    message = f"{project}: release {short(digest)} was refused, the champion goes on: {why}"
    alerts.raise_alert(
        place.ledger, place.listeners, id=f"rollout:{rollout}", kind="release refused", message=message,
        evidence={"release": digest},
    )  # fmt: skip
    orchestrator.tell(
        "trimtab.rollout.rolled-back", project=project, id=rollout, payload={"release": digest, "reason": why}
    )


def follow(place: Here, live: Live) -> None:
    """Wait until the server follows the ledger, and let MLflow's alias do so too."""
    if not wait_until_live(place.settings.model_server, live.champion):
        print("The model server has not followed the ledger yet; it will when it is back.")
    released = place.ledger.release(live.champion)
    if released is not None:
        crown(place.tracking, name=released["model_name"], version=int(released["model_version"]))
    orchestrator.show_markdown(
        "live", f"**{short(live.champion)}** answers users since ledger version {live.version}: {live.reason}",
        about="Who is live",
    )  # fmt: skip
