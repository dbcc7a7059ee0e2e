"""Validate: a landed batch is accepted, and becomes part of the dataset, or is quarantined with its reasons."""

from __future__ import annotations

from typing import Any

import pandas as pd
from prefect import flow, task

from flows.door import Here, here
from stores import batches
from stores.ledger import BatchCheck
from tasks import alerts, dataset, orchestrator, reports
from tasks.policy import OUTSIDE
from trimtab import schema
from trimtab.schema import Checked, Schema

version_data = task(name="version-data", **OUTSIDE)(dataset.save)
summarise = task(name="summarise")(reports.summary)


class Quarantined(RuntimeError):
    """The batch was refused whole; the live model goes on, and training never sees these rows."""


@flow(flow_run_name="validate-{period}")
def validate(period: str, batch: str | None = None) -> bool:
    """Hold a landed batch against the project's schema; whether it was accepted.

    Args:
        period: like 2013-03
        batch: digest of a landed batch; empty: the one that landed last
    """
    place = here()
    wanted = place.params.parse_period(period)
    landed = batches.landed(place.root, str(wanted), batch)
    rows = pd.read_parquet(landed.path)
    rules = rules_of(place, rows)
    checked = schema.check(rows, rules, place.params, wanted)
    is_accepted = checked.refusal is None
    changed = batches.quarantine(place.root, period, landed.digest, checked.bad)
    if is_accepted:
        changed |= batches.accept(place.root, period, checked.good)
    version = version_data(
        place.root,
        message=f"{'Accept' if is_accepted else 'Quarantine'} {period}: {len(checked.good)} good rows, "
        f"{len(checked.bad)} bad",
        commit=place.settings.commit_data,
    )
    place.ledger.record_dataset(
        version.hash, pointer=version.pointer, period=period,
        cause="accepted" if is_accepted else "quarantined", git_commit=version.git_commit,
    )  # fmt: skip
    check = record(place, period, landed.digest, rules, checked, version.hash)
    announce(place, check)  # before the pages are drawn: what follows need not wait for them
    show(place, check, checked)
    return is_accepted


def rules_of(place: Here, rows: pd.DataFrame) -> Schema:
    """The project's schema; inferred from *rows* and written down when there is none yet."""
    path = place.root / "schema.yaml"
    if not path.exists():
        path.write_text(schema.infer(rows, place.params).dumps())
        print(f"Inferred {path.name} from {len(rows)} rows: review it and commit it.")
    return place.schema


def record(place: Here, period: str, digest: str, rules: Schema, checked: Checked, version: str) -> BatchCheck:
    """The conclusion into the ledger."""
    good, bad = len(checked.good), len(checked.bad)
    reason = checked.refusal or (f"{good} rows accepted" + (f", {bad} quarantined" if bad else ""))
    check = BatchCheck(
        period=period, digest=digest, schema=rules.digest, accepted=checked.refusal is None, reason=reason,
        rows_good=good, rows_bad=bad,
        evidence={"reasons": dict(list(checked.reasons.items())[:50]), "dataset": version},
    )  # fmt: skip
    place.ledger.record_check(check)
    return check


def show(place: Here, check: BatchCheck, checked: Checked) -> None:
    """What a person wants to see of it: a table of reasons, and Evidently's summary of the accepted rows."""
    lines = [f"**{check.period}** {'accepted' if check.accepted else 'quarantined'}: {check.reason}"]
    if checked.reasons:
        lines += ["", "| reason | rows |", "|---|---|"]
        lines += [f"| {reason} | {count} |" for reason, count in list(checked.reasons.items())[:20]]
    if check.accepted:
        columns = place.params.columns
        page = summarise(checked.good, numbers=columns.number, categories=columns.category, period=check.period)
        kept = place.keep_report(f"batch-{check.period}-{check.digest[:12]}.html", page)
        lines += ["", f"Data summary: `{kept}`"]
    orchestrator.show_markdown("batch", "\n".join(lines), about=f"Batch of {check.period}")


def announce(place: Here, check: BatchCheck) -> None:
    """Tell the world: accepted starts monitoring of the period, quarantined alerts."""
    project = place.params.project.name
    fact = f"{check.period}-{check.digest[:16]}-{check.schema[:8]}"
    payload: dict[str, Any] = {"period": check.period, "batch": check.digest, "reason": check.reason}
    if check.accepted:
        orchestrator.tell("trimtab.batch.accepted", project=project, id=fact, payload=payload)
        return
    orchestrator.tell("trimtab.batch.quarantined", project=project, id=fact, payload=payload)
    message = f"{project}: the batch of {check.period} was quarantined: {check.reason}. The live model goes on."
    alerts.raise_alert(
        place.ledger, place.listeners, id=f"batch:{fact}", kind="batch quarantined", message=message, evidence=payload
    )
