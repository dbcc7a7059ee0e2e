"""The pages on params.yaml and on TRIMTAB_* variables, from the pydantic models that read them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from types import NoneType
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from serving.settings import ServerSettings
from tools.reference.tables import ROOT, Incomplete, check_complete, table
from trimtab.config.params import Params
from trimtab.config.secret_files import secret_fields
from trimtab.config.settings import Settings

FOLDERS = ("trimtab", "stores", "tasks", "operations", "flows", "serving", "deployments", "cli", "infra", ".ci")
TEXT = ("", ".py", ".yaml", ".tpl", ".json", ".example", ".txt")
# Variables that no settings class has, with where they are read.
OTHER_VARIABLES = {
    "TRIMTAB_DEBUG": "`1` shows whole tracebacks and Prefect's own log lines (`cli/`, `deployments/local_run.py`)",
    "TRIMTAB_DOCKER": "the `docker` program, where it is not the first in `PATH` (`infra/`, `.ci/`)",
    "TRIMTAB_SECRETS": "Compose: folder with the secret files (`infra/compose/.env`)",
    "TRIMTAB_WORKER_IMAGE": "Compose: image of flow runs, worker, Prefect and MLflow (`infra/compose/.env`)",
    "TRIMTAB_COMMIT": "Compose: commit that is written into the images' labels",
    "TRIMTAB_CI_CACHE": "folder for the base image that `.ci/engine` builds; default `~/.cache/trimtab-ci`",
    "TRIMTAB_STACK": "set by the supervisor in every process that it starts, to find them again; do not set it",
}
NOT_SETTINGS = {"TRIMTAB_X"}  # an example in a text
_CHOICES = re.compile(r"\^\(([\w|]+)\)\$")


_PARAMS_TOP = """# params.yaml

What changes the model. A wrong key or value stops every command with the line to change. What changes the place (ports,
addresses, folders) is in [settings](settings.md).

Durations are a number and `h`, `d` or `w`, like `7d`. Cron lines are in UTC. A key without a default has to be given.

"""
_PARAMS_END = """

Columns that are named nowhere are kept in the data and not shown to the model. `gate.metric` is `roc_auc`, `log_loss`
or `accuracy` for a binary task, `log_loss`, `accuracy` or `f1_macro` for a multiclass one, `rmse`, `mae` or `r2` for a
regression. `rollout.loss` is `brier` or `log`; `squared` or `absolute` for a regression.

`model.py` in the project's folder has a function `model(params, seed)` that returns a scikit-learn estimator.
`source.target` is explained in [Bring your data](../how-to/data.md), `alerts` in [Watch it](../how-to/watching.md), the
numbers of `rollout` in [Rollouts](../explanation/rollout.md#choosing-the-numbers).
"""


def params_page() -> str:
    """All keys of params.yaml. Raises Incomplete where one has no description."""
    rows = [row for name, field in Params.model_fields.items() for row in _keys(field.alias or name, field)]
    return _PARAMS_TOP + table(["key", "meaning", "value", "default"], rows) + _PARAMS_END


def _keys(name: str, field: FieldInfo) -> Iterator[list[str]]:
    if (section := _section(field.annotation)) is not None:
        for inner, about in section.model_fields.items():
            yield from _keys(f"{name}.{about.alias or inner}", about)
        return
    if not field.description:
        raise Incomplete(f"params.yaml: {name} has no description")
    default = "" if field.is_required() else _default(field.default)
    yield [f"`{name}`", field.description, _bounds(field), default]


def _section(annotation: Any) -> type[BaseModel] | None:
    """The model of a section, also of a list of them (`alerts`)."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _section(part))), None)


def _default(value: object) -> str:
    if value is None or value in ((), {}):
        return "none"
    if isinstance(value, tuple):
        joined = f"{value[0]} of {value[1]}" if len(value) == 2 else ", ".join(map(str, value))
        return f"`{joined}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{_duration(value) if isinstance(value, timedelta) else value}`"


def _duration(value: timedelta) -> str:
    hours = int(value.total_seconds() // 3600)
    return f"{hours // 24}d" if hours % 24 == 0 else f"{hours}h"


def _bounds(field: FieldInfo) -> str:
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    found = [
        f"{sign} {limit}"
        for meta in field.metadata
        for key, sign in signs.items()
        if (limit := getattr(meta, key, None)) is not None
    ]
    choices = [value for value in _literals(field.annotation) if value is not None]
    return ", ".join([*(f"`{choice}`" for choice in choices), *found])


def _literals(annotation: Any) -> list[Any]:
    inner = get_args(annotation)
    if inner and not any(isinstance(part, type) or get_args(part) for part in inner):
        return list(inner)
    return [value for part in inner if part is not NoneType for value in _literals(part)]


def settings_page() -> str:
    """All environment variables. Raises Incomplete where one has no description, or is described and gone."""
    shared, server = _variables(Settings), _variables(ServerSettings)
    check_complete("variables", _named() - shared.keys() - server.keys() - NOT_SETTINGS, OTHER_VARIABLES)
    for name, row in {**shared, **server}.items():
        if not row[1]:
            raise Incomplete(f"{name} has no description")
    secret = ", ".join(
        f"`TRIMTAB_{name.upper()}`" for name in sorted({*secret_fields(Settings), *secret_fields(ServerSettings)})
    )
    head = ["variable", "meaning", "default"]
    return "\n\n".join(
        [
            "# Settings",
            "What changes the place: addresses, ports, folders, limits. All are environment variables; a boolean is "
            "`true` or `false`, a list is JSON. What changes the model is in [params.yaml](params.md).",
            f"A secret may come from a file: with `_FILE` behind its name the variable names a file. That holds for "
            f"{secret}. The value itself wins where both are set.",
            "## Commands, flows and the stack",
            table(head, shared.values()),
            "## The model server",
            "It reads `TRIMTAB_HOST`, `TRIMTAB_SERVER_PORT`, `TRIMTAB_HOME`, `TRIMTAB_PROJECT`, `TRIMTAB_STORE` and "
            "`TRIMTAB_STORE_ENDPOINT` of the table above as well.",
            table(head, server.values()),
            "## Elsewhere",
            table(["variable", "meaning"], [[f"`{name}`", about] for name, about in OTHER_VARIABLES.items()]),
        ]
    )


def _variables(settings: type[BaseSettings]) -> dict[str, list[str]]:
    found = {}
    for name, field in settings.model_fields.items():
        default = "required" if field.is_required() else _default(field.default)
        variable = f"TRIMTAB_{name.upper()}"
        choices = _CHOICES.fullmatch(next((m.pattern for m in field.metadata if getattr(m, "pattern", None)), ""))
        about = " (" + ", ".join(f"`{c}`" for c in choices[1].split("|")) + ")" if choices else ""
        default = "`.`" if variable == "TRIMTAB_PROJECT" else default
        found[variable] = [f"`{variable}`", f"{field.description or ''}{about}", default]
    return found


def _named() -> set[str]:
    """Every TRIMTAB_ variable that the product, the images or the scripts name."""
    files = [ROOT / "Dockerfile", ROOT / "Makefile"]
    files += [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()]
    text = "\n".join(path.read_text(errors="ignore") for path in files if path.suffix in TEXT)
    return {name.removesuffix("_FILE") for name in re.findall(r"\bTRIMTAB_[A-Z0-9_]*[A-Z0-9]\b", text)}
