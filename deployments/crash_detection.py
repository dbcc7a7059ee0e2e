"""The automations that notice lost runs. One that had begun is lost when its heartbeats cease and it has not ended; one
that a worker took is lost when it never begins. In both cases the process, the container or the machine is gone.

A run whose worker is alive is reported by the worker at once (`deployments.workers.warm_worker`); this is for when
the worker went as well. A run that was taken and never begins holds its place in a concurrency limit for good, as
Prefect forgets what it lent when its server restarts.
"""

from datetime import timedelta

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

LOST = "crash-lost-runs"
NEVER_BEGUN = "crash-runs-never-begun"
_EVENT = "prefect.flow-run."
_ENDS = ("Completed", "Failed", "Cancelled", "Crashed")
_BEGUN = ("Running", "Paused", "Suspended", "Cancelling", "Scheduled", "Late", "AwaitingRetry", *_ENDS)


def lost_runs(within_s: int) -> AutomationCore:
    """A run that sent a heartbeat and for *within_s* seconds neither another one nor an end has crashed."""
    return _automation(
        LOST, "Marks runs as crashed whose process, worker or machine was lost.", after="heartbeat",
        expect=("heartbeat", *_ENDS), within_s=within_s, message="no heartbeat: process or machine lost",
    )  # fmt: skip


def runs_never_begun(within_s: int) -> AutomationCore:
    """A run that a worker took and that after *within_s* seconds has neither begun nor ended has crashed."""
    return _automation(
        NEVER_BEGUN, "Marks runs as crashed that a worker took and that never began.", after="Pending", expect=_BEGUN,
        within_s=within_s, message="it was taken and never began: worker or machine lost, or no image",
    )  # fmt: skip


def _automation(
    name: str, about: str, *, after: str, expect: tuple[str, ...], within_s: int, message: str
) -> AutomationCore:
    return AutomationCore(
        name=name,
        description=about,
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
    """Have exactly these automations on the server that the settings name; untouched if they are right.

    *silent_s* should be three heartbeats (`PREFECT_FLOWS_HEARTBEAT_FREQUENCY`, at least 30 seconds): with less,
    a busy machine gets its runs declared dead. *start_s* has to be longer than pulling an image takes. Replacing an
    automation loses what it was waiting for, so this does so only when something differs.
    """
    with get_client(sync_client=True) as client:
        for wanted in (lost_runs(silent_s), runs_never_begun(start_s)):
            _ensure(client, wanted)


def _ensure(client: SyncPrefectClient, wanted: AutomationCore) -> None:
    found = client.read_automations_by_name(wanted.name)
    right = [automation for automation in found if _meaning(automation) == _meaning(wanted)]
    for automation in found:
        if automation not in right[:1]:
            client.delete_automation(automation.id)
    if not right:
        client.create_automation(wanted)


def _meaning(automation: AutomationCore) -> dict[str, object]:
    fields = set(AutomationCore.model_fields)
    return automation.model_dump(mode="python", include=fields, exclude={"trigger": {"id"}, "owner_resource": True})
