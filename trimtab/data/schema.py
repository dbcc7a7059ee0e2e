"""Schemas of batches: inferred once into a file that people review, then enforced on every batch.

`stores.batches` stores the batches.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from trimtab.config.params import Params
from trimtab.config.yaml_lines import parse
from trimtab.data.conversion import ColumnKind, convert
from trimtab.data.labels import LabelRule, read_labels
from trimtab.data.periods import Period

QUOTED = '"'  # PyYAML's style of a text between quotes


class SchemaError(ValueError):
    """`schema.yaml` cannot be used."""


class ColumnRule(BaseModel):
    """What one column may hold. *min* and *max* are inclusive bounds of a number: a row outside is bad. *expected* are
    bounds that the first batch suggests: a row outside is counted as a warning, and accepted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: ColumnKind
    nullable: bool = False
    min: float | None = None
    max: float | None = None
    expected: tuple[float, float] | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min is not None and self.max is not None and not self.min <= self.max:
            raise ValueError(f"min {self.min} is larger than max {self.max}: no number would pass")
        return self


def _on_one_line(name: str, rule: Mapping[str, Any]) -> str:
    """The YAML of one entry on one line; the name is quoted where it would take several lines."""

    def dump(value: Any, *, style: str | None = None, allow_unicode: bool = True) -> str:
        return yaml.safe_dump(
            value, default_flow_style=True, default_style=style, sort_keys=False, width=math.inf,
            allow_unicode=allow_unicode,
        ).strip()  # fmt: skip

    line = dump({name: rule})[1:-1]
    is_plain = name.isprintable() and "\n" not in line and not line.startswith("? ")
    return line if is_plain else f"{dump(name, style=QUOTED, allow_unicode=name.isprintable())}: {dump(rule)}"


class Schema(BaseModel):
    """The columns that a batch must have. Accepted batches keep only these."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    columns: dict[str, ColumnRule]

    def dumps(self) -> str:
        """The text of schema.yaml, one line for each column."""
        lines = [
            "# What a good batch looks like. Inferred once; yours to tighten. See docs/explanation/validation.md.",
            "columns:",
        ]
        for name, rule in self.columns.items():
            lines.append(f"  {_on_one_line(name, rule.model_dump(exclude_defaults=True))}")
        return "\n".join(lines) + "\n"

    @classmethod
    def loads(cls, text: str, *, name: str = "schema.yaml") -> Schema:
        """Parse *text*. Raises SchemaError, which names the file *name* and what is wrong with it."""
        try:
            return cls.model_validate(parse(text)[1])
        except (ValidationError, yaml.YAMLError) as error:
            raise SchemaError(f"{name}: {error}") from None

    def convert(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The columns of *frame* that have a rule, with their kinds' types; missing where a cell cannot be read."""
        return pd.DataFrame(
            {name: convert(frame[name], rule.kind) for name, rule in self.columns.items() if name in frame},
            index=frame.index,
        )

    @property
    def digest(self) -> str:
        """The sha256 of the rules in hex; the layout of the file does not change it."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


@dataclass(frozen=True)
class ValidationResult:
    """A validated batch: *good* rows with the schema's types, and *bad* rows as they came with a `reason` column.

    *reasons* counts the bad rows by reason. When the whole batch is rejected, *refusal* says why and *good* is empty.
    *warnings* counts accepted rows by what is unusual about them.
    """

    good: pd.DataFrame
    bad: pd.DataFrame
    reasons: Mapping[str, int]
    refusal: str | None
    warnings: Mapping[str, int] = field(default_factory=dict)


def infer_schema(frame: pd.DataFrame, params: Params) -> Schema:
    """A schema that the rows of *frame* satisfy.

    The bounds of a number are its range, widened by the width of the range on both sides, and warnings until a person
    makes them `min` and `max`. Every column may have missing values but time and id: that the first batch has no gap
    says nothing about the next. Raises SchemaError when a column of *params* is missing.
    """
    columns = params.columns
    roles: dict[str, ColumnKind] = {columns.id: "id", columns.time: "time"}
    roles[columns.target] = "category" if params.project.task == "multiclass" else "number"
    if columns.key:
        roles[columns.key] = "category"
    roles.update(dict.fromkeys(columns.number, "number"))
    roles.update(dict.fromkeys(columns.category, "category"))
    if missing := [name for name in roles if name not in frame]:
        raise SchemaError(f"the source gives no column {', '.join(missing)}; params.yaml names it under columns")
    rules = {}
    for name, kind in roles.items():
        null = kind not in ("id", "time")
        low = high = None
        if kind == "number":
            is_binary = name == columns.target and params.project.task == "binary"
            values = read_labels(frame[name], params.project.label_rule) if is_binary else convert(frame[name], kind)
            low, high = _bounds(values.dropna(), is_exact=is_binary)
            if not is_binary and low is not None and high is not None:
                rules[name] = ColumnRule(kind=kind, nullable=null, expected=(low, high))
                continue
        rules[name] = ColumnRule(kind=kind, nullable=null, min=low, max=high)
    return Schema(columns=rules)


def _bounds(values: pd.Series[Any], *, is_exact: bool) -> tuple[float | None, float | None]:
    """The bounds for later numbers: none when *values* is empty, and a lower bound of 0 when no value is negative."""
    if values.empty:
        return None, None
    low, high = float(values.min()), float(values.max())
    room = 0.0 if is_exact else (high - low or abs(high) or 1.0)
    floor = 0.0 if low >= 0 and low - room < 0 else low - room
    return min(low, round(floor, 6)), max(high, round(high + room, 6))


def validate_batch(
    frame: pd.DataFrame, schema: Schema, params: Params, period: Period, *, labels: LabelRule | None = None
) -> ValidationResult:
    """Validate the rows of *frame* against *schema*: rows that break a rule go to `bad`.

    The whole batch is rejected when it has no rows, lacks a column, repeats an id, or has a larger share of bad rows
    than `validate.max_bad_share`; rows outside *period* are bad. *labels* says how the
    target is read; default: as the project spells it. Raises SchemaError when *schema* lacks a rule for a
    column that *params* names.
    """
    id_, time = params.columns.id, params.columns.time
    if unruled := [c for c in (id_, time, params.columns.target, *params.columns.features) if c not in schema.columns]:
        raise SchemaError(
            f"schema.yaml has no rule for {', '.join(unruled)}: add it, or remove the file to infer it anew"
        )
    if frame.empty:
        return _empty(frame, schema, params, period)
    if missing := [name for name in schema.columns if name not in frame]:
        return _refuse(frame, f"missing column: {', '.join(missing)}")
    frame = frame.reset_index(drop=True)
    typed = typed_rows(frame, schema, params, labels)
    is_twice = typed[id_].duplicated(keep=False) & typed[id_].notna()
    if is_twice.any():
        example = typed.loc[is_twice, id_].iloc[0]
        return _refuse(frame, f"duplicate ids: {is_twice.sum()} rows share theirs with another, e.g. {id_}={example}")

    reasons = pd.Series("", index=typed.index, dtype=object)
    for name, rule in schema.columns.items():
        unreadable = typed[name].isna() & frame[name].notna()
        _note(reasons, unreadable, f"{name}: {_unreadable(name, rule, params)}")
        if not rule.nullable:
            _note(reasons, frame[name].isna(), f"{name}: missing")
        if rule.kind == "number":
            low = -math.inf if rule.min is None else rule.min
            high = math.inf if rule.max is None else rule.max
            _note(reasons, (typed[name] < low) | (typed[name] > high), f"{name}: outside {low:g} to {high:g}")
    start, end = (pd.Timestamp(t).tz_localize(None) for t in (period.start, period.end))
    outside = typed[time].notna() & ~((typed[time] >= start) & (typed[time] < end))
    _note(reasons, outside, f"{time}: outside {period}")

    is_bad = reasons != ""
    counts = _counted(reasons[is_bad])
    limit = params.checks.max_bad_share
    if outside.mean() > limit:
        return _refuse(frame, f"wrong period: {int(outside.sum())} of {len(frame)} rows lie outside {period}", reasons)
    if is_bad.mean() > limit:
        worst = next(iter(counts))
        return _refuse(frame, f"{int(is_bad.sum())} of {len(frame)} rows are bad, more than {limit:.0%}; "
                              f"the commonest reason is {worst} ({counts[worst]} rows)", reasons)  # fmt: skip
    good = typed[~is_bad].reset_index(drop=True)
    bad = _with_reasons(frame[is_bad], reasons[is_bad])
    return ValidationResult(good, bad, counts, None, _unexpected(good, schema))


def _empty(frame: pd.DataFrame, schema: Schema, params: Params, period: Period) -> ValidationResult:
    if not params.checks.allow_empty:
        return _refuse(frame, f"empty: the source gave no row for {period} (validate.allow_empty accepts that)")
    none = pd.DataFrame({name: pd.Series(dtype=object) for name in schema.columns})
    return ValidationResult(typed_rows(none, schema, params), none.assign(reason=""), {}, None)


def _unreadable(name: str, rule: ColumnRule, params: Params) -> str:
    if name == params.columns.target and params.project.task != "regression":
        named = params.project.task == "multiclass" or params.project.positive is not None
        hint = "" if named else " (others than 0/1, no/yes, false/true: name project.negative and project.positive)"
        return f"no label of a {params.project.task} task{hint}"
    return f"not a {'time like 2013-03-04 05:00' if rule.kind == 'time' else rule.kind}"


def typed_rows(frame: pd.DataFrame, schema: Schema, params: Params, labels: LabelRule | None = None) -> pd.DataFrame:
    """The columns of *frame* that *schema* has, with their kinds' types, and the target as labels are read. A cell that
    cannot be read is missing."""
    typed, target = schema.convert(frame), params.columns.target
    if params.project.task == "regression" or target not in frame:
        return typed
    read = read_labels(frame[target], labels or params.project.label_rule)
    return typed.assign(**{target: read.astype("str").where(read.notna()) if read.dtype == object else read})


def _refuse(frame: pd.DataFrame, why: str, reasons: pd.Series | None = None) -> ValidationResult:
    own = reasons.where(reasons != "", "in a refused batch") if reasons is not None else why
    bad = _with_reasons(frame, pd.Series(own, index=frame.index, dtype="str"))
    return ValidationResult(frame.iloc[:0], bad, {why: len(bad)} if reasons is None else _counted(bad["reason"]), why)


def _with_reasons(rows: pd.DataFrame, reasons: pd.Series[Any]) -> pd.DataFrame:
    """*rows* with a column `reason`; one of that name that the source has is called reason_of_source."""
    named = rows.rename(columns={"reason": "reason_of_source"})
    return named.assign(reason=reasons.astype("str")).reset_index(drop=True)


def _unexpected(good: pd.DataFrame, schema: Schema) -> dict[str, int]:
    """Accepted rows outside of what the first batch suggests, by column."""
    found = {}
    for name, rule in schema.columns.items():
        if rule.expected is not None:
            low, high = rule.expected
            if rows := int(((good[name] < low) | (good[name] > high)).sum()):
                found[f"{name}: outside the expected {low:g} to {high:g}"] = rows
    return found


def _counted(reasons: pd.Series[Any]) -> dict[str, int]:
    each = reasons.astype("str").str.split("; ").explode()
    return {str(why): int(count) for why, count in each.value_counts().items()}


def _note(reasons: pd.Series[Any], rows: pd.Series[bool], why: str) -> None:
    reasons[rows] = reasons[rows].map(lambda old: f"{old}; {why}" if old else why)
