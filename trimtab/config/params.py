"""`params.yaml`: everything that changes the model. Addresses, ports and folders are in `trimtab.config.settings`.

`trimtab.config.sections` has the sections; here are the checks across sections and the errors with line numbers."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, Field, ValidationError, model_validator

from trimtab.config.fields import format_duration
from trimtab.config.secret_detection import find_secret
from trimtab.config.sections import (
    AlertConfig,
    ColumnsConfig,
    GateConfig,
    MonitorConfig,
    PeriodConfig,
    ProjectConfig,
    ScheduleConfig,
    Section,
    SourceConfig,
    TrainConfig,
    ValidationConfig,
)
from trimtab.config.yaml_lines import line_of, parse
from trimtab.data.periods import Period, span
from trimtab.rollout.config import LOSSES, RolloutConfig


class ParamsError(ValueError):
    """`params.yaml` cannot be used; the message names the file, the line and what to change."""


def _without_secret(alert: AlertConfig) -> AlertConfig:
    """Raise ValueError when an address in params.yaml looks secret: the file is in git and shown on web pages."""
    found = find_secret(alert.url.get_secret_value()) if alert.url else None
    if alert.url and alert.kind in ("slack", "apprise"):
        found = "a token, as all addresses of this kind do"
    if found:
        raise ValueError(
            f"url holds {found}: put it into a variable and name that with url_env, or into a file, with url_file"
        )
    return alert


class Params(Section):
    """The whole of `params.yaml`."""

    project: ProjectConfig
    source: SourceConfig
    columns: ColumnsConfig
    period: PeriodConfig
    checks: ValidationConfig = Field(ValidationConfig(), alias="validate")
    train: TrainConfig = TrainConfig()
    gate: GateConfig
    monitor: MonitorConfig = MonitorConfig()
    rollout: RolloutConfig = RolloutConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    alerts: tuple[Annotated[AlertConfig, AfterValidator(_without_secret)], ...] = (AlertConfig(kind="log"),)

    @model_validator(mode="after")
    def _fit(self) -> Params:
        allowed = {
            "binary": {"roc_auc", "log_loss", "accuracy"},
            "multiclass": {"log_loss", "accuracy", "f1_macro"},
            "regression": {"rmse", "mae", "r2"},
        }[self.project.task]
        if self.gate.metric not in allowed:
            raise ValueError(f"gate.metric {self.gate.metric} does not measure a {self.project.task} task: "
                             f"use one of {', '.join(sorted(allowed))}")  # fmt: skip
        if self.rollout.loss_of(self.project.task) not in LOSSES[self.project.task]:
            raise ValueError(f"rollout.loss {self.rollout.loss} does not measure a {self.project.task} task: "
                             f"use one of {', '.join(LOSSES[self.project.task])}")  # fmt: skip
        for section, slices in (("gate", self.gate.slices), ("rollout", self.rollout.slices)):
            for name in slices:
                if name not in {*self.columns.features, self.columns.key}:
                    raise ValueError(
                        f"{section}.slices.{name} is not a feature or the key: name it under columns, or remove it"
                    )
        if self.rollout.block and (missing := sorted(self.rollout.slices.keys() - self.gate.slices.keys())):
            raise ValueError(
                f"rollout.slices.{missing[0]} needs a margin under gate.slices too: blocks are judged by gate.metric"
            )
        learned = list(span(self.first, self.first_train))
        learned = learned if self.train.window == "all" else learned[-self.train.window :]
        held, whole = self.train.holdout, learned[-1].end - learned[0].start
        if held >= whole if isinstance(held, timedelta) else held >= len(learned):
            raise ValueError(
                f"train.holdout {format_duration(held)} leaves nothing to train on: the first model sees {learned[0]} "
                f"to {learned[-1]} only; make holdout shorter or period.first_train later"
            )
        return self

    def parse_period(self, text: str) -> Period:
        """The period of this project with the label *text*. Raises PeriodError."""
        return Period.parse(text, self.period.every)

    @property
    def first(self) -> Period:
        """The project's first period."""
        return self.parse_period(self.period.start)

    @property
    def first_train(self) -> Period:
        """The last period that the first model may learn from."""
        return self.parse_period(self.period.first_train)


def load(project: Path) -> Params:
    """Read params.yaml in the folder *project*. Raises ParamsError, which names the line to change."""
    path = project / "params.yaml"
    try:
        node, data = parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsError(f"{path} does not exist: run this in a project's folder, or set TRIMTAB_PROJECT") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ParamsError(f"{path}:{line}: not YAML: {error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path}:1: not YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(data, dict):
        raise ParamsError(f"{path}:1: expected sections like project: and columns:, found {type(data).__name__}")
    try:
        return Params.model_validate(data)
    except ValidationError as error:
        raise ParamsError("\n".join(_explain(path, node, problem) for problem in error.errors())) from None


def _explain(path: Path, node: yaml.Node | None, problem: Any) -> str:
    where = [part for part in problem["loc"] if not (isinstance(part, str) and "[" in part)]
    message = problem["msg"].removeprefix("Value error, ")
    first, _, rest = message.partition(" ")
    named = [*where, *first.split(".")]
    if problem["type"] == "value_error" and line_of(node, named)[1] == len(
        named
    ):  # our own validators begin the message with the key
        where, message = named, rest
    line, known = line_of(node, where)
    name = ".".join(map(str, where[:known] if problem["type"] not in ("missing", "extra_forbidden") else where))
    if problem["type"] == "extra_forbidden":
        what = "is not a key that exists here: remove it or look for a typo"
    elif problem["type"] == "missing":
        what = "is missing"
    else:
        is_secret = where[:1] == ["alerts"] and where[-1] != "kind"
        found = "" if is_secret or isinstance(problem["input"], dict) else f" (found {_shown(problem['input'])})"
        what = f"{message}{found}"
        if problem["type"] == "string_type" and isinstance(problem["input"], bool):
            what += "; YAML reads yes, no, on and off without quotes as true and false: put it in quotes"
    return f"{path}:{line}: {name}{':' if name else ''} {what}".replace(":  ", ": ")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
