"""Formats errors for a terminal: one line that says what is wrong, without a traceback."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

OURS = ("trimtab", "stores", "tasks", "operations", "flows", "deployments", "serving")


def is_explained(error: BaseException) -> bool:
    """Whether *error* is one of Trimtab's own, or bad input that pydantic describes."""
    from pydantic import ValidationError

    room = type(error).__module__.split(".")[0]
    return room in OURS or isinstance(error, ValidationError)


def format_error(error: BaseException) -> str:
    """The text to print for *error*. An unexpected one also names where it was raised and how to see its traceback."""
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        return "\n".join(_format_problem(error.title, problem) for problem in error.errors(include_url=False))
    if is_explained(error):
        return str(error)
    return f"{type(error).__name__}: {error} (in {origin(error)}; TRIMTAB_DEBUG=1 shows the whole traceback)"


def _format_problem(title: str, problem: Mapping[str, Any]) -> str:
    """One wrong value by the name of its setting; the value is left out, as it may be a secret."""
    place = ".".join(map(str, problem["loc"]))
    name = f"TRIMTAB_{place.upper()}" if title == "Settings" else f"{title} {place}"
    return f"{name}: {problem['msg']}"


def origin(error: BaseException) -> str:
    """File and line of the innermost frame of *error* in Trimtab's own code."""
    home = Path(__file__).resolve().parent.parent
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).is_relative_to(home)]
    mine = [f for f in frames if Path(f.filename).relative_to(home).parts[0] in (*OURS, "cli")]
    return f"{Path(mine[-1].filename).relative_to(home)}:{mine[-1].lineno}" if mine else "an unknown place"
