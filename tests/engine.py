"""Whether a Docker engine runs here, for the tests that need one."""

from __future__ import annotations

import pytest

from tasks import containers

BASE = "python:3.11-slim-bookworm"


def _why_not() -> str:
    try:
        containers.engine_version()
        if containers.find_image(BASE) is None:
            return f"the engine has no {BASE}: .ci/engine makes it"
    except containers.EngineRejected as error:
        return str(error)
    return ""


needs_engine = pytest.mark.skipif(bool(_why_not()), reason=_why_not())
