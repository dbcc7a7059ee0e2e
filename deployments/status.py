"""The status of a project: health of the components, live release, open rollout, last decision; and the history of
live releases. As data, and as text for a terminal."""

from __future__ import annotations

from typing import Any

from deployments import stack
from stores.ledger import Ledger, LedgerUnavailable
from trimtab.config import params
from trimtab.config.settings import Settings


def collect(settings: Settings) -> dict[str, Any]:
    """The status as JSON-ready data.

    What the ledger would tell is None while it is unavailable; `params` is the error in params.yaml, or None.
    """
    components = [each.model_dump(mode="json") for each in stack.status(settings).components]
    found: dict[str, Any] = {
        "components": components, "live": None, "rollout": None, "last_decision": None, "ledger": "available",
        "params": _params_error(settings),
    }  # fmt: skip
    try:
        ledger = Ledger(stack.ledger_url(settings))
        live, decisions = ledger.live(), ledger.decisions()
    except LedgerUnavailable:
        return found | {"ledger": "unavailable"}
    if live is not None:
        found["live"] = {
            "release": live.champion, "model_version": ledger.model_version(live.champion),
            "ledger_version": live.version, "since": live.recorded_at.isoformat(), "reason": live.reason,
        }  # fmt: skip
        found["rollout"] = _open_rollout(ledger)
    if decisions:
        last = decisions[-1]
        found["last_decision"] = {"id": last.id, "period": last.period, "action": last.action, "cause": last.cause}
    return found


def _open_rollout(ledger: Ledger) -> dict[str, Any] | None:
    """The open rollout with its newest observation; None when there is none."""
    current = ledger.current_rollout()
    if current is None:
        return None
    rollout, at, seen = current.rollout, current.state, ledger.last_observation(current.rollout.id)
    return {
        "id": rollout.id, "release": rollout.release, "model_version": ledger.model_version(rollout.release),
        "state": "in probation" if at.in_probation else at.title, "share": current.live.challenger_share,
        "pairs": seen.pairs if seen else 0, "labels": seen.labels if seen else 0,
        "verdict": seen.verdict if seen else "keep collecting", "reason": seen.evidence["reason"] if seen else "",
    }  # fmt: skip


def _params_error(settings: Settings) -> str | None:
    """The message with line numbers if params.yaml is invalid, else None."""
    try:
        params.load(settings.root)
    except params.ParamsError as error:
        return str(error)
    return None


def format_status(found: dict[str, Any]) -> str:
    """The result of `collect` as text."""
    lines = []
    for component in found["components"]:
        memory = f"{component['rss_mb']:.0f} MB" if component.get("rss_mb") else ""
        restarts = f"restarted {component['restarts']} times" if component.get("restarts") else ""
        url = component.get("url") or ""
        lines.append(f"{component['name']:<12}{component['state']:<12}{url:<28}{memory:>8}  {restarts}".rstrip())
    live, decision = found["live"], found["last_decision"]
    if live:
        lines.append(f"live          version {live['model_version']} ({live['release'][:12]}): {live['reason']}")
    else:
        why = "no release yet" if found["ledger"] == "available" else "unknown: the ledger is unavailable"
        lines.append(f"live        {why}")
    if (rollout := found["rollout"]) and rollout["state"] == "experiment":
        lines.append(
            f"experiment    {rollout['id']}: version {rollout['model_version']} scores {rollout['share']:.0%} of keys; "
            "see `trimtab experiment report`"
        )
    elif rollout:
        lines.append(
            f"rollout       version {rollout['model_version']}: {rollout['state']}, {rollout['verdict']} after "
            f"{rollout['pairs']:,} pairs and {rollout['labels']:,} labels: {rollout['reason']}"
        )
    if decision:
        lines.append(f"decision    {decision['period']} {decision['action']}: {decision['cause']}")
    return "\n".join(lines)


def history(settings: Settings) -> list[dict[str, Any]]:
    """The live releases with times and reasons, oldest first."""
    ledger = Ledger(stack.ledger_url(settings))
    versions = {release.digest: release.model_version for release in ledger.releases()}
    return [
        {
            "ledger_version": entry.version, "since": entry.recorded_at.isoformat(timespec="seconds"),
            "move": entry.move, "model_version": versions.get(entry.champion), "release": entry.champion,
            "challenger": entry.challenger, "challenger_version": versions.get(entry.challenger or ""),
            "share": entry.challenger_share, "rollout": entry.rollout,
            "reason": entry.reason, "actor": entry.actor,
        }
        for entry in ledger.history()
    ]  # fmt: skip


def format_history(rows: list[dict[str, Any]]) -> str:
    """The result of `history` as text, one line per entry."""
    if not rows:
        return "No release has been live yet."
    return "\n".join(
        f"{row['ledger_version']:>3}  {row['since']}  {row['move']:<10}  version {row['model_version']} "
        f"({row['release'][:12]}){_format_challenger(row)}  {row['reason']}"
        for row in rows
    )


def _format_challenger(row: dict[str, Any]) -> str:
    return f" challenger version {row['challenger_version']} at {row['share']:.0%}" if row["challenger"] else ""
