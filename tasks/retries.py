"""Options of tasks: which errors are retried, and what is cached."""

from __future__ import annotations

from typing import Any, TypedDict

from prefect.cache_policies import INPUTS, NO_CACHE, TASK_SOURCE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task, exponential_backoff

from tasks.source_access import SourceError

PERMANENT = (ValueError, LookupError, TypeError, AssertionError, FileNotFoundError)


class TaskOptions(TypedDict):
    """Options of `prefect.task`."""

    retries: int
    retry_delay_seconds: Any
    retry_jitter_factor: float
    retry_condition_fn: Any
    cache_policy: Any


def is_transient(task: Task[Any, Any], run: TaskRun, state: State[Any]) -> bool:
    """Whether a retry may succeed. A wrong input stays wrong."""
    try:
        state.result()
    except SourceError:
        return True
    except PERMANENT:
        return False
    except Exception as error:  # noqa: BLE001  # whatever a task may raise
        status = getattr(error, "get_http_status_code", lambda: 500)()  # MLflow's errors
        return not 400 <= status < 500
    return False


RETRIED = TaskOptions(
    retries=3,
    retry_delay_seconds=exponential_backoff(backoff_factor=1),
    retry_jitter_factor=0.5,
    retry_condition_fn=is_transient,
    cache_policy=NO_CACHE,
)
"""For tasks that touch the outside world; every one of them is safe to repeat."""

RETRIED_CACHED: TaskOptions = {**RETRIED, "cache_policy": INPUTS + TASK_SOURCE}
"""For tasks whose result is kept: the same inputs and the same code are not worked on twice."""
