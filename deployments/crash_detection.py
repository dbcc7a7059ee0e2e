"""Prefect automations that mark lost flow runs as crashed: started runs whose heartbeats stop, and pending runs that
never start.

A running worker reports a crash at once (`deployments.workers.warm_worker`); the automations are for runs that are lost
together with their worker. Without them a run that never starts would occupy its slot of a concurrency limit forever.
"""

from datetime import timedelta

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

LOST_RUNS = "crash-lost-runs"
UNSTARTED_RUNS = "crash-unstarted-runs"
_EVENT = "prefect.flow-run."
_FINAL = ("Completed", "Failed", "Cancelled", "Crashed")
_STARTED = ("Running", "Paused", "Suspended", "Cancelling", "Scheduled", "Late", "AwaitingRetry", *_FINAL)


def lost_runs_automation(within_s: int) -> AutomationCore:
    """Crash a run that has sent a heartbeat, and for *within_s* seconds no other one and no final state."""
    return _automation(
        LOST_RUNS, "Marks runs as crashed whose process, worker or machine is lost.", after="heartbeat",
        expect=("heartbeat", *_FINAL), within_s=within_s, message="no heartbeat: process or machine lost",
    )  # fmt: skip


def unstarted_runs_automation(within_s: int) -> AutomationCore:
    """Crash a run that has been pending for *within_s* seconds."""
    return _automation(
        UNSTARTED_RUNS, "Marks runs as crashed that a worker accepted and that never started.", after="Pending",
        expect=_STARTED, within_s=within_s, message="pending, but never started: worker or machine lost, or no image",
    )  # fmt: skip


def _automation(
    name: str, description: str, *, after: str, expect: tuple[str, ...], within_s: int, message: str
) -> AutomationCore:
    return AutomationCore(
        name=name,
        description=description,
        trigger=EventTrigger(
            after={f"{_EVENT}{after}"},
            expect={f"{_EVENT}{event}" for event in expect},
            match=ResourceSpecification({"prefect.resource.id": [f"{_EVENT}*"]}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=within_s),
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, name=None, message=message, force=False)],
    )


def ensure_crash_automations(*, silent_s: int = 90, start_s: int = 300) -> None:
    """Create both automations at the server of Prefect's settings; replace only those that differ.

    *silent_s* should be three heartbeats (`PREFECT_FLOWS_HEARTBEAT_FREQUENCY`, at least 30 seconds): with less, runs
    of a busy machine are marked as crashed. *start_s* must exceed the time to pull an image. An automation that is
    replaced loses its pending triggers.
    """
    with get_client(sync_client=True) as client:
        for wanted in (lost_runs_automation(silent_s), unstarted_runs_automation(start_s)):
            _ensure(client, wanted)


def _ensure(client: SyncPrefectClient, wanted: AutomationCore) -> None:
    found = client.read_automations_by_name(wanted.name)
    equal = [automation for automation in found if _comparable(automation) == _comparable(wanted)]
    for automation in found:
        if automation not in equal[:1]:
            client.delete_automation(automation.id)
    if not equal:
        client.create_automation(wanted)


def _comparable(automation: AutomationCore) -> dict[str, object]:
    fields = set(AutomationCore.model_fields)
    return automation.model_dump(mode="python", include=fields, exclude={"trigger": {"id"}, "owner_resource": True})
