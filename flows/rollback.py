"""Rollback: the release that was live before answers again, in one step."""

from __future__ import annotations

from prefect import flow

from flows.deploy import follow, known_release
from flows.door import Here, here
from stores import bundles
from tasks import alerts, orchestrator


class NothingBefore(RuntimeError):
    """There is no earlier release to go back to."""


@flow(flow_run_name="rollback")
def rollback(reason: str = "asked for by hand", to: str | None = None) -> int:
    """Make the previous release live again; the ledger's version number. Raises ReleaseError for a damaged bundle.

    Args:
        reason: why, for the history
        to: a release; empty: the one before the live one
    """
    place = here()
    target, now = previous(place, to)
    bundles.open_bundle(place.settings.releases, target)  # one that is damaged would leave nobody to answer
    moved = place.ledger.switch(target, expected=now, move="rollback", reason=reason, actor=orchestrator.me())
    follow(place, moved)
    project = place.params.project.name
    payload = {"release": target, "version": moved.version, "reason": reason}
    orchestrator.tell("trimtab.rollout.rolled-back", project=project, id=f"live-{moved.version}", payload=payload)
    alerts.raise_alert(
        place.ledger, place.listeners, id=f"live:{moved.version}", kind="rolled back",
        message=f"{project}: rolled back to {target[:12]}: {reason}", evidence=payload,
    )  # fmt: skip
    return moved.version


def previous(place: Here, to: str | None) -> tuple[str, int]:
    """The release to go back to, and the ledger version that was seen. Raises NothingBefore or NoSuchRelease.

    Going back twice goes back further: a release that was rolled back from is not gone back to.
    """
    history = place.ledger.history()
    if not history:
        raise NothingBefore("nothing is live yet: deploy a release first")
    if to is not None:
        return known_release(place, to), history[-1].version
    stack: list[str] = []
    for entry in history:
        if entry.move == "rollback" and entry.champion in stack:
            last = len(stack) - 1 - stack[::-1].index(entry.champion)
            del stack[last + 1 :]
        elif stack[-1:] != [entry.champion]:
            stack.append(entry.champion)
    if len(stack) < 2:
        raise NothingBefore(f"{stack[-1][:12]} is the first release: there is none before it")
    return stack[-2], history[-1].version
