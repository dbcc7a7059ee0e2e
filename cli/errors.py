"""How errors are told at a terminal: in one line that says what is wrong, without the traceback that would hide it."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

OURS = ("trimtab", "stores", "tasks", "operations", "flows", "deployments", "serving")


def explained(error: BaseException) -> bool:
    """Whether *error* is one of Trimtab's own, or bad input that pydantic has put into words."""
    from pydantic import ValidationError

    room = type(error).__module__.split(".")[0]
    return room in OURS or isinstance(error, ValidationError)


def told(error: BaseException) -> str:
    """What a person reads about *error*. One that nobody foresaw also says where it came from and how to see all."""
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        return "\n".join(_named(error.title, problem) for problem in error.errors(include_url=False))
    if explained(error):
        return str(error)
    return f"{type(error).__name__}: {error} (in {origin(error)}; TRIMTAB_DEBUG=1 shows the whole traceback)"


def _named(title: str, problem: Mapping[str, Any]) -> str:
    """One wrong value, by the name that people gave it; the value itself may be a secret."""
    place = ".".join(map(str, problem["loc"]))
    name = f"TRIMTAB_{place.upper()}" if title == "Settings" else f"{title} {place}"
    return f"{name}: {problem['msg']}"


def origin(error: BaseException) -> str:
    """The innermost line of Trimtab's own that *error* passed through."""
    home = Path(__file__).resolve().parent.parent
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).is_relative_to(home)]
    mine = [f for f in frames if Path(f.filename).relative_to(home).parts[0] in (*OURS, "cli")]
    return f"{Path(mine[-1].filename).relative_to(home)}:{mine[-1].lineno}" if mine else "an unknown place"
