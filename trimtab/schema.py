"""What a good batch looks like: inferred once into a file that people review, then enforced.

Numbers and frames in, a judgement out; where batches are kept is `stores.batches`' business.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from trimtab.params import Params
from trimtab.periods import Period

Kind = Literal["number", "category", "time", "id"]


class SchemaError(ValueError):
    """`schema.yaml` cannot be used."""


class ColumnRule(BaseModel):
    """What one column may hold. *min* and *max* bound numbers, both included."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    nullable: bool = False
    min: float | None = None
    max: float | None = None


class Schema(BaseModel):
    """Every column that a batch must have. Columns that are not named are left out of accepted batches."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    columns: dict[str, ColumnRule]

    def dumps(self) -> str:
        """The reviewable file: one line a column."""
        lines = ["# What a good batch looks like. Inferred once; yours to tighten. See docs/validation.md.", "columns:"]
        for name, rule in self.columns.items():
            body = yaml.safe_dump(rule.model_dump(exclude_defaults=True), default_flow_style=True, sort_keys=False)
            lines.append(f"  {name}: {body.strip()}")
        return "\n".join(lines) + "\n"

    @classmethod
    def loads(cls, text: str, *, name: str = "schema.yaml") -> Schema:
        """The schema written in *text*; raises SchemaError saying what is wrong with the file called *name*."""
        try:
            return cls.model_validate(yaml.safe_load(text))
        except (ValidationError, yaml.YAMLError) as error:
            raise SchemaError(f"{name}: {error}") from None

    @property
    def digest(self) -> str:
        """Identity of the rules, whatever the file's layout."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


@dataclass(frozen=True)
class Checked:
    """A batch divided: *good* rows with the schema's types, *bad* ones as they came with a `reason` column.

    When the batch as a whole is refused, *refusal* says why and *good* is empty.
    """

    good: pd.DataFrame
    bad: pd.DataFrame
    reasons: Mapping[str, int]
    refusal: str | None


def infer(frame: pd.DataFrame, params: Params) -> Schema:
    """Rules that the rows of *frame* keep, with room: a number may leave the seen range by its full width.

    A column may be missing where it was ever missing; time and id never.
    """
    columns, rules = params.columns, {}
    roles: dict[str, Kind] = {columns.id: "id", columns.time: "time"}
    roles |= {columns.target: "category" if params.project.task == "multiclass" else "number"}
    if columns.key:
        roles |= {columns.key: "category"}
    roles |= {name: "number" for name in columns.number} | {name: "category" for name in columns.category}
    if missing := [name for name in roles if name not in frame]:
        raise SchemaError(f"the source gives no column {', '.join(missing)}; params.yaml names it under columns")
    for name, kind in roles.items():
        values, null = frame[name], bool(frame[name].isna().any()) and kind not in ("id", "time")
        if kind != "number":
            rules[name] = ColumnRule(kind=kind, nullable=null)
            continue
        low, high = (float(v) for v in (values.min(), values.max()))
        room = 0.0 if name == columns.target and params.project.task == "binary" else (high - low or abs(high) or 1.0)
        floor = 0.0 if low >= 0 and low - room < 0 else low - room
        rules[name] = ColumnRule(kind=kind, nullable=null, min=round(floor, 6), max=round(high + room, 6))
    return Schema(columns=rules)


def check(frame: pd.DataFrame, schema: Schema, params: Params, period: Period) -> Checked:
    """Hold *frame* against *schema*: rows that break a rule go to `bad`, and too many of them refuse the batch.

    Refused whole: no rows, a missing column, ids that are given twice, and more bad rows than
    `validate.max_bad_share`, be it for their values or because they lie outside *period*.
    """
    if missing := [name for name in schema.columns if name not in frame]:
        return _refuse(frame, f"missing column: {', '.join(missing)}")
    if frame.empty:
        return _refuse(frame, f"empty: the source gave no row for {period}")
    id_, time = params.columns.id, params.columns.time
    if twice := int(frame[id_].duplicated(keep=False).sum()):
        example = frame.loc[frame[id_].duplicated(), id_].iloc[0]
        return _refuse(frame, f"duplicate ids: {twice} rows share theirs with another, e.g. {id_}={example}")

    typed = pd.DataFrame({name: _typed(frame[name], rule.kind) for name, rule in schema.columns.items()})
    reasons = pd.Series("", index=typed.index, dtype=object)
    for name, rule in schema.columns.items():
        unreadable = typed[name].isna() & frame[name].notna()
        _note(reasons, unreadable, f"{name}: not a {'number' if rule.kind == 'number' else rule.kind}")
        if not rule.nullable:
            _note(reasons, frame[name].isna(), f"{name}: missing")
    for name, row in _broken_ranges(typed, schema):
        rule = schema.columns[name]
        _note(reasons, typed.index.isin(row), f"{name}: outside {rule.min:g} to {rule.max:g}")
    start, end = (pd.Timestamp(t).tz_localize(None) for t in (period.start, period.end))
    outside = typed[time].notna() & ~((typed[time] >= start) & (typed[time] < end))
    _note(reasons, outside, f"{time}: outside {period}")

    is_bad = reasons != ""
    counts = reasons[is_bad].str.split("; ").explode().value_counts().to_dict()
    limit = params.checks.max_bad_share
    if outside.mean() > limit:
        return _refuse(frame, f"wrong period: {int(outside.sum())} of {len(frame)} rows lie outside {period}", reasons)
    if is_bad.mean() > limit:
        worst = next(iter(counts))
        return _refuse(frame, f"{int(is_bad.sum())} of {len(frame)} rows are bad, more than {limit:.0%}; "
                              f"the commonest reason is {worst} ({counts[worst]} rows)", reasons)  # fmt: skip
    good = typed[~is_bad].reset_index(drop=True)
    bad = frame[is_bad].assign(reason=reasons[is_bad].astype("str")).reset_index(drop=True)
    return Checked(good, bad, counts, None)


def _refuse(frame: pd.DataFrame, why: str, reasons: pd.Series | None = None) -> Checked:
    own = reasons.where(reasons != "", "in a refused batch") if reasons is not None else why
    bad = frame.assign(reason=pd.Series(own, index=frame.index, dtype="str")).reset_index(drop=True)
    counts = bad["reason"].str.split("; ").explode().value_counts().to_dict()
    return Checked(frame.iloc[:0], bad, counts, why)


def _note(reasons: pd.Series, rows: object, why: str) -> None:
    reasons[rows] = reasons[rows].map(lambda old: f"{old}; {why}" if old else why)


def _typed(values: pd.Series, kind: Kind) -> pd.Series:
    if kind == "number":
        return pd.to_numeric(values, errors="coerce").astype("float64")
    if kind == "time":
        times = pd.to_datetime(values, errors="coerce", utc=True)
        return times.dt.tz_localize(None).astype("datetime64[us]")
    return values.astype("str").where(values.notna())


def _broken_ranges(typed: pd.DataFrame, schema: Schema) -> list[tuple[str, list[int]]]:
    """Per column, the rows whose number lies outside its rule, as pandera finds them."""
    import pandera.pandas as pa

    columns = {
        name: pa.Column(float, pa.Check.in_range(rule.min, rule.max), nullable=True)
        for name, rule in schema.columns.items()
        if rule.kind == "number" and rule.min is not None and rule.max is not None
    }
    try:
        pa.DataFrameSchema(columns).validate(typed, lazy=True)
    except pa.errors.SchemaErrors as error:
        cases = error.failure_cases
        return [(str(name), list(rows["index"])) for name, rows in cases.groupby("column")]
    return []
