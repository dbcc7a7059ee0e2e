"""Validate: a landed batch is accepted, and becomes part of the dataset, or is quarantined with its reasons."""

from __future__ import annotations

from prefect import flow

from operations import validation
from operations.context import load_context
from stores.parquet_frames import read_frame
from trimtab.data import schema


@flow(flow_run_name="validate-{period}")
def validate(period: str, batch: str | None = None) -> bool:
    """Validate a landed batch against the project's schema; whether it was accepted.

    Args:
        period: like 2013-03
        batch: digest of a landed batch; empty: the one that landed last
    """
    ctx = load_context()
    wanted = ctx.params.parse_period(period)
    period = str(wanted)  # 2024-3 is 2024-03
    landing = ctx.ledger.landing(period)
    landed = validation.find_landed(ctx, period, batch)
    rows = read_frame(landed.path)
    rules = validation.load_schema(ctx, rows, wanted)
    checked = schema.validate_batch(rows, rules, ctx.params, wanted)
    version = validation.add_to_dataset(ctx, period, landed.digest, checked)
    result = validation.record(ctx, period, landed.digest, rules, checked, version)
    validation.announce(ctx, result)  # before the pages are drawn, which takes seconds
    validation.finish(ctx, landing, result)
    validation.show(ctx, result, checked)
    return result.accepted
