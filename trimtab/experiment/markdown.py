"""The report of an A/B experiment as Markdown, for the terminal, the flow run's page and MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from trimtab.config.fields import format_duration
from trimtab.data.markdown_text import as_cell
from trimtab.experiment.report import POWER, Arm, BlockEffect, Effect, Estimate, Report


def to_markdown(report: Report, versions: Mapping[str, int] | None = None) -> str:
    """Return *report* as Markdown. *versions* maps release digests to model versions."""
    plan = report.plan
    state = f"ended: {report.reason}" if report.state == "ended" else "running"
    lines = [
        f"# Experiment {plan.title}", "",
        f"**{report.conclusion}**", "",
        f"- A: {_named(report.a, versions)}, B: {_named(report.b, versions)}; B answers {plan.share:.0%} of the keys",
        f"- {state}; {_time(report)} of data time so far, {format_duration(plan.duration)} asked for",
        *[f"- guardrail: {words}" for words in report.broken], "",
        "## Effect", "",
        f"Both scored the same rows: {report.pairs:,} pairs. Mean {report.loss} loss of B less that of A, negative "
        f"where B is better. The interval holds at {1 - report.alpha:.0%}, however often one looks.", "",
        "| where | labels | difference | interval | |", "|---|---:|---:|---|---|",
        *[_effect(effect) for effect in (report.effect, *report.slices)], "",
    ]  # fmt: skip
    if report.by_block is not None:
        lines += [_days(report.by_block), ""]
    if report.slices:
        lines += [f"The intervals of all slices hold together at {1 - report.alpha:.0%}.", ""]
    lines += ["## Power", "", _power(report), "", "## What users got", "", *_arm_table(report), "", "## Split", ""]
    return "\n".join([*lines, _split(report), ""])


def _named(arm: Arm, versions: Mapping[str, int] | None) -> str:
    version = (versions or {}).get(arm.release)
    return f"`{arm.release[:12]}`" if version is None else f"version {version} (`{arm.release[:12]}`)"


def _time(report: Report) -> str:
    hours = report.elapsed.total_seconds() / 3600
    return f"{hours / 24:.1f} days" if hours >= 48 else f"{hours:.1f} hours"


def _effect(effect: Effect) -> str:
    where = "overall" if effect.column is None else f"{as_cell(effect.column)} = {as_cell(effect.value)}"
    difference = "" if effect.difference is None else f"{effect.difference:+.5f}"
    return (
        f"| {where} | {effect.labels:,} | {difference} | {effect.low:+.5f} to {effect.high:+.5f} | {effect.finding} |"
    )


def _days(days: BlockEffect) -> str:
    name = "days" if days.block == timedelta(days=1) else f"blocks of {format_duration(days.block)}"
    if days.difference is None or days.low is None or days.high is None:
        between = "no interval yet"
    else:
        between = f"{days.difference:+.5f} ({days.low:+.5f} to {days.high:+.5f})"
    return (
        f"From day to day, each of {days.blocks} {name} counted once, as labels of one time are not independent: "
        f"{between}, {days.finding}."
    )


def _power(report: Report) -> str:
    power = report.power
    if power.detectable is None or power.needed is None or power.still_needed is None:
        return "Unknown before there are labels of rows on which the two differ."
    if power.still_needed:
        more = f"one of {report.margin:g}, the margin, takes about {power.still_needed:,} more labels"
    else:
        more = f"one of {report.margin:g}, the margin, took about {power.needed:,}"
    return (
        f"{report.effect.labels:,} labels show a difference of {power.detectable:.5f} in {POWER:.0%} of experiments; "
        f"{more} (standard deviation of the differences {power.sd:.4f})."
    )


def _arm_table(report: Report) -> list[str]:
    return [
        f"Each arm on what it answered itself. The intervals of {report.metric} hold at 95 % for a single look at a "
        "time that was fixed beforehand (bootstrap over keys): do not stop because of them.", "",
        f"| | answers | labels | {report.metric} | interval |", "|---|---:|---:|---:|---|",
        *[f"| {name} | {arm.answers:,} | {arm.labels:,} | {_measured(arm.metric)} |"
          for name, arm in (("A", report.a), ("B", report.b))],
        f"| B better by | | | {_measured(report.gain)} |",
    ]  # fmt: skip


def _measured(found: Estimate) -> str:
    if found.value is None:
        return " | "
    between = "" if found.low is None or found.high is None else f"{found.low:.4f} to {found.high:.4f}"
    return f"{found.value:.4f} | {between}"


def _split(report: Report) -> str:
    split = report.sample_ratio
    counted = f"{split.a:,} {split.unit} in A, {split.b:,} in B, {split.chosen:.0%} chosen for B"
    if split.holds is None:
        result = "too few to tell whether the split holds"
    else:
        result = f"{'holds' if split.holds else 'BROKEN'} (chi-square {split.chi_square:.2f}, p = {split.p_value:.2g})"
    replaced = f" B had no answer for {split.replaced:,} rows of its own, which A answered." if split.replaced else ""
    return f"{counted}: {result}.{replaced}"
