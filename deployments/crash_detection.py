"""The automation that notices lost runs: no heartbeat, no end, so the process or its machine is gone.

A run whose worker is alive is reported by the worker at once (`deployments.warm_worker`); this is for when
the worker went as well.
"""

from datetime import timedelta

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

AUTOMATION_NAME = "crash-lost-runs"
_EVENT = "prefect.flow-run."
_ENDS = ("Completed", "Failed", "Cancelled", "Crashed")


def crash_automation(within_s: int) -> AutomationCore:
    """A run that sent a heartbeat and for *within_s* seconds neither another one nor an end has crashed."""
    heartbeat = f"{_EVENT}heartbeat"
    return AutomationCore(
        name=AUTOMATION_NAME,
        description="Marks runs as crashed whose process, worker or machine was lost.",
        trigger=EventTrigger(
            after={heartbeat},
            expect={heartbeat, *(f"{_EVENT}{end}" for end in _ENDS)},
            match=ResourceSpecification({"prefect.resource.id": [f"{_EVENT}*"]}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=within_s),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED, name=None, message="no heartbeat: process or machine lost", force=False
            )
        ],
    )


def ensure_crash_automation(within_s: int = 90) -> None:
    """Have exactly one such automation on the server that the settings name; untouched if it is right.

    *within_s* should be three heartbeats (`PREFECT_FLOWS_HEARTBEAT_FREQUENCY`, at least 30 seconds): with less,
    a busy machine gets its runs declared dead. Replacing an automation loses what it was waiting for, so this
    does so only when something differs.
    """
    wanted = crash_automation(within_s)
    with get_client(sync_client=True) as client:
        found = client.read_automations_by_name(AUTOMATION_NAME)
        right = [automation for automation in found if _same(automation, wanted)]
        for automation in found:
            if automation not in right[:1]:
                client.delete_automation(automation.id)
        if not right:
            client.create_automation(wanted)


def _same(found: AutomationCore, wanted: AutomationCore) -> bool:
    return _meaning(found) == _meaning(wanted)


def _meaning(automation: AutomationCore) -> dict[str, object]:
    fields = set(AutomationCore.model_fields)
    return automation.model_dump(mode="python", include=fields, exclude={"trigger": {"id"}, "owner_resource": True})
