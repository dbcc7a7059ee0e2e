"""Running a flow in this process, against the stack whose addresses are in the environment."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any


def run(flow: str, parameters: Mapping[str, Any]) -> Any:
    """The result of the flow called *flow*, like drift-monitor."""
    name = flow.replace("-", "_")
    return getattr(importlib.import_module(f"flows.{name}"), name)(**parameters)
