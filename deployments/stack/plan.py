"""The supervisor's plan: plain data, standard library only, so that it fits through a pipe and into a small process."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

CODE = Path(__file__).resolve().parents[2]
"""Where the rooms are; our own programs need it on their path, wherever the project's folder is."""

RECORD, LOCK = "stack.json", "stack.lock"
"""Files in the state folder: what the supervisor says, and the lock that it holds while it lives."""

LOCK_TAKEN = 3
"""Exit code of a supervisor that found another one alive."""

MARK = "TRIMTAB_STACK"
"""Variable that every process of a stack inherits; its value names the one supervisor that started it."""


class StackError(Exception):
    """The stack cannot do what was asked. The text says what is wrong, where, and what to do."""


@dataclass(frozen=True)
class Probe:
    """How to ask a component whether it is ready.

    http: GET *target* answers 200. command: *command* exits with 0.
    worker: the Prefect API at *target* shows a worker of *pool* that reported after the component's start.
    exit: the component is a job; it is ready once it has ended with 0.
    """

    kind: Literal["http", "command", "worker", "exit"]
    target: str = ""
    command: tuple[str, ...] = ()
    pool: str = ""


@dataclass(frozen=True)
class Component:
    """One process (with whatever it starts), and how to run, check and stop it."""

    name: str
    command: tuple[str, ...]
    probe: Probe
    env: dict[str, str] = field(default_factory=dict)
    unset: tuple[str, ...] = ()
    cwd: str = "/"
    url: str = ""
    needs: tuple[str, ...] = ()
    uid: int | None = None
    gid: int | None = None
    stop_signal: int = 15
    stop_group: int = 0
    stop_timeout_s: float = 5.0
    kill_children: bool = True


@dataclass(frozen=True)
class Plan:
    """Everything a supervisor needs. Travels through its standard input: an environment may hold secrets."""

    state: Path
    components: tuple[Component, ...]

    @property
    def names(self) -> frozenset[str]:
        """What the components are called."""
        return frozenset(part.name for part in self.components)

    def dumps(self) -> str:
        """As JSON, for `loads`."""
        return json.dumps(
            {
                "state": str(self.state),
                "components": [asdict(part) for part in self.components],
            }
        )

    @classmethod
    def loads(cls, text: str) -> "Plan":
        """Undo `dumps`."""
        raw = json.loads(text)
        return cls(Path(raw["state"]), tuple(_component(part) for part in raw["components"]))


def _component(raw: dict[str, Any]) -> Component:
    probe = Probe(**{**raw["probe"], "command": tuple(raw["probe"]["command"])})
    lists = {key: tuple(raw[key]) for key in ("command", "unset", "needs")}
    return Component(**{**raw, **lists, "probe": probe})
