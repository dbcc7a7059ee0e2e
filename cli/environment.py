"""Prepares this process for the running stack."""

from __future__ import annotations

import os

from trimtab.config.settings import Settings


def use_stack(settings: Settings) -> None:
    """Set the stack's addresses in this process's environment.

    Call it before Prefect is imported, which reads its address once. Raises ParamsError when params.yaml is wrong, so
    that this is reported before any work starts.
    """
    from deployments import stack
    from trimtab.config import params

    params.load(settings.root)
    os.environ.update(stack.environment(settings))
