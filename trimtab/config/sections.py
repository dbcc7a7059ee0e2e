"""The sections of `params.yaml`, each with the checks that concern it alone."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator

from trimtab.config.fields import Cron, Duration, Holdout, KOfN, Window
from trimtab.data.labels import LabelRule, spelled
from trimtab.data.periods import Every, Period, PeriodError
from trimtab.data.types import RESERVED_NAMES


class Section(BaseModel):
    """A part of params.yaml. An unknown key is an error, and numbers are finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _number_as_text(value: object) -> object:
    return spelled(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


LabelText = Annotated[str, BeforeValidator(_number_as_text)]


class ProjectConfig(Section):
    """What is being modelled."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="also the model's name in MLflow")
    task: Literal["binary", "multiclass", "regression"] = Field(description="what kind of label is predicted")
    negative: LabelText | None = Field(
        None,
        min_length=1,
        max_length=256,
        description="the negative label of a binary task, unless it is 0, no or false",
    )
    positive: LabelText | None = Field(
        None, min_length=1, max_length=256, description="the positive label, whose probability is predicted"
    )

    @model_validator(mode="after")
    def _both_labels(self) -> ProjectConfig:
        if (self.negative is None) != (self.positive is None):
            raise ValueError("name both labels, negative and positive, or none of them")
        if self.positive is not None and self.task != "binary":
            raise ValueError(f"negative and positive are labels of a binary task, and this one is {self.task}")
        if self.positive is not None and self.negative is not None and spelled(self.positive) == spelled(self.negative):
            raise ValueError(f"negative and positive cannot both be {spelled(self.positive)}")
        return self

    @property
    def label_rule(self) -> LabelRule:
        """How labels are read."""
        return LabelRule(task=self.task, negative=self.negative, positive=self.positive)


class CsvConfig(Section):
    """How the cells of the source's CSV files are written. The same for all files: what differs is refused."""

    separator: str = Field(",", min_length=1, max_length=1, description='between two cells; a tab is written "\\t"')
    decimal: Literal[".", ","] = Field(".", description="decimal mark of numbers")
    thousands: Literal[",", ".", "'", " "] | None = Field(None, description="between groups of three digits, if any")
    encoding: str = Field("utf-8", description="how text is encoded, like utf-8 or cp1252")
    missing: tuple[str, ...] = Field(
        ("",), description="cells that are missing; in number columns NA, NaN, null and - always are"
    )

    @model_validator(mode="after")
    def _distinct(self) -> CsvConfig:
        if self.decimal == self.thousands:
            raise ValueError(f"decimal and thousands cannot both be {self.decimal!r}")
        if self.separator == self.decimal == ",":
            raise ValueError("separator and decimal cannot both be a comma")
        return self


class SourceConfig(Section):
    """Where the rows of a period come from."""

    target: str = Field(
        description="module:function called with (start, end), or a Parquet/CSV path or s3:// address with {period}"
    )
    csv: CsvConfig = CsvConfig()


class ColumnsConfig(Section):
    """The role of each column. Other columns stay in the data, and the model does not see them."""

    target: str = Field(description="the label")
    time: str = Field(description="the row's data time")
    id: str = Field(description="the row's unique id")
    key: str | None = Field(None, description="who or what a prediction is about; a key keeps its arm in a rollout")
    number: tuple[str, ...] = Field((), description="features that are numbers, in order")
    category: tuple[str, ...] = Field((), description="features that are categories, in order")

    @property
    def features(self) -> tuple[str, ...]:
        """The model's inputs, in order."""
        return (*self.number, *self.category)

    @model_validator(mode="after")
    def _distinct(self) -> ColumnsConfig:
        if not self.features:
            raise ValueError("name at least one feature under number or category")
        if twice := sorted({c for c in self.features if self.features.count(c) > 1}):
            raise ValueError(f"a feature is named twice: {', '.join(twice)}")
        if leak := {self.target, self.id} & set(self.features):
            raise ValueError(f"{', '.join(sorted(leak))} cannot be a feature: it would tell the answer")
        if self.time in self.features:
            raise ValueError(f"{self.time} cannot be a feature: it is the time of a row; derive what matters from it")
        recorded = [*self.features, self.id, *([self.key] if self.key else [])]
        taken = [name for name in recorded if name in RESERVED_NAMES]
        if taken or self.target == "prediction":
            raise ValueError(f"{(taken or [self.target])[0]} is a column of telemetry: rename it in the source")
        if len({self.target, self.time, self.id}) < 3:
            raise ValueError("target, time and id have to be three columns")
        return self


class PeriodConfig(Section):
    """How data time is divided into periods."""

    every: Every = Field(description="length of a period")
    start: str = Field(description="the first period")
    first_train: str = Field(description="the last period that the first model may learn from")
    label_delay: Duration = Field(timedelta(0), description="how long after a row its label is known")

    @model_validator(mode="after")
    def _parse(self) -> PeriodConfig:
        named = {}
        for key in ("start", "first_train"):
            try:
                named[key] = Period.parse(getattr(self, key), self.every)
            except PeriodError as error:
                raise ValueError(f"{key} {error}") from None
        if named["first_train"] < named["start"]:
            raise ValueError(f"first_train {self.first_train} lies before start {self.start}")
        return self


class ValidationConfig(Section):
    """When a whole batch is rejected."""

    max_bad_share: float = Field(0.05, ge=0, lt=1, description="a larger share of bad rows refuses the batch")
    allow_empty: bool = Field(False, description="accept a period for which the source has no row, like a holiday")


class TrainConfig(Section):
    """How a candidate is trained."""

    window: Window = Field("all", description="periods to train on: all, or the newest so many")
    holdout: Holdout = Field(1, description="newest part of the window, kept for the gate: periods, or a duration")
    seed: int = Field(0, description="seed of the estimator and of every sample")
    model: str = Field(
        "hist_gradient_boosting",
        description="hist_gradient_boosting, random_forest, logistic_regression, ridge, a sklearn. path, or model.py",
    )
    params: dict[str, Any] = Field({}, description="the estimator's own parameters")

    @model_validator(mode="after")
    def _possible(self) -> TrainConfig:
        if self.window != "all" and self.window < 1:
            raise ValueError(f"window {self.window} is impossible: use at least 1 period, or all")
        if isinstance(self.holdout, int) and self.window != "all" and self.holdout >= self.window:
            raise ValueError(
                f"window {self.window} leaves nothing to train on after a holdout of {self.holdout}: "
                "make window larger than holdout"
            )
        if self.holdout <= timedelta(0) if isinstance(self.holdout, timedelta) else self.holdout < 1:
            raise ValueError("holdout leaves no row for the gate: give it at least 1 period, or 1h")
        return self


class GateConfig(Section):
    """What a candidate has to reach before it may be released. The gate cannot be turned off."""

    metric: Literal["roc_auc", "log_loss", "accuracy", "f1_macro", "rmse", "mae", "r2"] = Field(
        description="what candidate and champion are compared by"
    )
    min: float = Field(description="an absolute floor; for errors, the largest allowed")
    max_regression: float = Field(0.0, ge=0, description="how much worse than the champion still passes")
    slices: dict[str, Annotated[float, Field(ge=0)]] = Field({}, description="column: margin in each of its values")
    min_slice_rows: int = Field(300, ge=30, description="values of a slice with fewer rows are not judged")
    resamples: int = Field(500, ge=50, le=5000, description="resamples of the bootstrap intervals")


class DriftConfig(Section):
    """Thresholds of drift. They are effect sizes and not p-values, so more rows do not give more alarms."""

    threshold: float = Field(0.1, gt=0, description="a column's distance from which it counts as drifted")
    impact: float = Field(0.1, gt=0, description="importance-weighted mean distance that asks for a retrain")
    prediction: float = Field(0.3, gt=0, description="distance of the predictions that asks for a retrain")
    max_null_gain: float = Field(0.1, gt=0, le=1, description="more missing values than this blocks")
    max_unseen: float = Field(0.1, gt=0, le=1, description="a larger share of unseen categories blocks")


class QualityConfig(Section):
    """When the live model's measured quality asks for a retrain."""

    max_drop: float = Field(
        0.05, gt=0,
        description="how much worse than promised the live metric may be; a share of it for rmse, mae and log_loss",
    )  # fmt: skip
    min_labels: int = Field(500, ge=1, description="with fewer labels nothing is concluded")


class MonitorConfig(Section):
    """When production data asks for an action."""

    sample: int = Field(20_000, ge=100, description="rows of a period that are measured")
    drift: DriftConfig = DriftConfig()
    quality: QualityConfig = QualityConfig()
    persist: KOfN = Field((2, 3), description="periods that must violate, the newest among them")
    cooldown: int = Field(1, ge=0, description="periods after a retrain in which none follows")
    min_rows: int = Field(200, ge=1, description="a period with fewer answers is not judged")


class ScheduleConfig(Section):
    """Cron lines, UTC."""

    retrain: Cron = Field("0 2 * * *", description="when retrain/nightly runs")
    ingest: Cron = Field("30 1 * * *", description="when ingest/nightly runs")
    changes: Cron = Field("*/5 * * * *", description="when ingest/on-change looks for changed objects in a bucket")


class AlertConfig(Section):
    """A channel for alerts. A secret address comes from an environment variable or a file."""

    kind: Literal["log", "webhook", "slack", "email", "apprise"] = Field(description="how it is sent")
    url: SecretStr | None = Field(None, description="the address, where it holds no secret")
    url_env: str | None = Field(None, pattern=r"^[A-Za-z_]\w*$", description="the variable that holds the address")
    url_file: Path | None = Field(None, description="the file that holds the address, like /run/secrets/slack")

    @model_validator(mode="after")
    def _addressed(self) -> AlertConfig:
        given = [value for value in (self.url, self.url_env, self.url_file) if value is not None]
        if self.kind == "log" and given:
            raise ValueError("kind log has no address: remove it, or choose another kind")
        if self.kind != "log" and len(given) != 1:
            raise ValueError(f"kind {self.kind} needs one of url, url_env and url_file")
        if self.url_file is not None and not self.url_file.is_absolute():
            raise ValueError("url_file has to be an absolute path: flows run in folders of their own")
        return self
