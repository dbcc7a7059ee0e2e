"""What is going on, for people and scripts: the parts' health, who is live, what was decided last."""

from __future__ import annotations

from typing import Any

from deployments import stack
from stores.ledger import Ledger, LedgerUnavailable
from trimtab.config import params
from trimtab.config.settings import Settings


def of(settings: Settings) -> dict[str, Any]:
    """Components, the live release and the last decision; what the ledger knows is None while it is away. `params`
    says what is wrong with params.yaml, if anything is."""
    parts = [part.model_dump(mode="json") for part in stack.status(settings).components]
    found: dict[str, Any] = {
        "components": parts, "live": None, "rollout": None, "last_decision": None, "ledger": "available",
        "params": trouble_with_params(settings),
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
        found["rollout"] = rollout_of(ledger)
    if decisions:
        last = decisions[-1]
        found["last_decision"] = {"id": last.id, "period": last.period, "action": last.action, "cause": last.cause}
    return found


def rollout_of(ledger: Ledger) -> dict[str, Any] | None:
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


def trouble_with_params(settings: Settings) -> str | None:
    """What has to be changed in params.yaml, with its lines; None when it can be used."""
    try:
        params.load(settings.root)
    except params.ParamsError as error:
        return str(error)
    return None


def text(found: dict[str, Any]) -> str:
    """The overview as a person reads it."""
    lines = []
    for part in found["components"]:
        memory = f"{part['rss_mb']:.0f} MB" if part.get("rss_mb") else ""
        again = f"restarted {part['restarts']} times" if part.get("restarts") else ""
        lines.append(f"{part['name']:<12}{part['state']:<12}{part.get('url') or '':<28}{memory:>8}  {again}".rstrip())
    live, decision = found["live"], found["last_decision"]
    if live:
        lines.append(f"live          version {live['model_version']} ({live['release'][:12]}): {live['reason']}")
    else:
        lines.append("live        nothing yet" if found["ledger"] == "available" else "live        unknown: no ledger")
    if (rollout := found["rollout"]) and rollout["state"] == "experiment":
        lines.append(
            f"experiment    {rollout['id']}: version {rollout['model_version']} answers {rollout['share']:.0%}; "
            "`trimtab experiment report` says how it does"
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
    """Who was live when, and why, oldest first."""
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


def history_text(rows: list[dict[str, Any]]) -> str:
    """The history as a person reads it."""
    if not rows:
        return "Nothing was live yet."
    return "\n".join(
        f"{row['ledger_version']:>3}  {row['since']}  {row['move']:<10}  version {row['model_version']} "
        f"({row['release'][:12]}){_beside(row)}  {row['reason']}"
        for row in rows
    )


def _beside(row: dict[str, Any]) -> str:
    """Which release scored beside the champion, and how many of the keys it answered."""
    return f" beside version {row['challenger_version']} at {row['share']:.0%}" if row["challenger"] else ""
