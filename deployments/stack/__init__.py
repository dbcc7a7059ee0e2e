"""The servers that Trimtab runs on: PostgreSQL, Prefect, MLflow, the model server, a worker and, on request, an S3
server. `components` defines the parts, `supervisor` keeps them running, `lifecycle` starts and stops them.

Names are imported on first use, because the supervisor is a process of this package too and has to stay small."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deployments.stack.addresses import environment, ledger_url, with_addresses
    from deployments.stack.lifecycle import down, erase, status, up
    from deployments.stack.plan import StackError
    from deployments.stack.state import ComponentStatus, StackStatus

__all__ = [
    "ComponentStatus",
    "StackError",
    "StackStatus",
    "down",
    "environment",
    "erase",
    "ledger_url",
    "status",
    "up",
    "with_addresses",
]

_HOMES = {
    "ComponentStatus": "state",
    "StackError": "plan",
    "StackStatus": "state",
    "down": "lifecycle",
    "environment": "addresses",
    "erase": "lifecycle",
    "ledger_url": "addresses",
    "with_addresses": "addresses",
    "status": "lifecycle",
    "up": "lifecycle",
}


def __getattr__(name: str) -> Any:
    """Import the module that holds *name* on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
