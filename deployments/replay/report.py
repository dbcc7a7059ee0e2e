"""What a replay was worth: the summary, the table and the picture, from telemetry, labels and the ledger."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd

from deployments.replay import rollouts as rollouts_module
from deployments.replay.replay import Replay, ReplayStep
from stores import telemetry
from stores.ledger import Outcome
from tasks import orchestrator
from trimtab.evaluation import metrics


def summarize(
    replay: Replay, baselines: Mapping[str, Mapping[str, float]], *, timings_s: Mapping[str, Any]
) -> dict[str, Any]:
    """The summary of a replay. Every number is read back from telemetry and the ledger, not from what was sent;
    only ``lost_predictions`` compares the two."""
    rollouts = rollouts_module.summarize_rollouts(replay.ledger)
    rows = [_period(replay, step, baselines[step.period], rollouts) for step in replay.steps]
    first, last = (replay.params.parse_period(replay.steps[i].period) for i in (0, -1))
    recorded = telemetry.predictions(replay.telemetry, first.start, last.shift(1).end, columns=[])
    retrains = [step for step in replay.steps if step.retrain]
    moves = [entry.move for entry in replay.ledger.history()]
    live = [row["metric"]["live"] for row in rows]
    return {
        "periods": rows,
        "rollouts": rollouts,
        "totals": {
            "predictions": len(recorded),
            "labels": len(telemetry.labels(replay.telemetry)),
            "lost_predictions": len(replay.traffic.answered - set(recorded["prediction_id"])),
            "retrains": len(retrains),
            "promotions": sum(bool(row["promoted"]) for row in rows),
            "rejections": sum(step.retrain.result == "rejected" for step in retrains if step.retrain),
            "rollbacks": moves.count("rollback"),
            "exposure": sum(found["exposure"] for found in rollouts),
            "mean_live": fmean(live),
            "mean_frozen": fmean(baselines[row["period"]]["frozen"] for row in rows),
            "mean_every_period": fmean(baselines[row["period"]]["every_period"] for row in rows),
        },
        "timings_s": {**timings_s, **_retrain_times(retrains)},
    }


def _period(
    replay: Replay, step: ReplayStep, baseline: Mapping[str, float], rollouts: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    period, decision = replay.params.parse_period(step.period), step.decision
    manifest = replay.release_store.get(step.release).manifest if step.release else None
    rule = (manifest or replay.params.project).label_rule.stored()
    seen = telemetry.joined(replay.telemetry, period.start, period.end, rule=rule)
    known = seen[seen["label"].notna()]
    outcome = step.retrain
    evidence = outcome.evidence if outcome else {}
    gate = replay.ledger.gate(evidence["run_id"]) if "run_id" in evidence else None
    facts = decision.evidence["facts"] if decision else {}
    distances, importances = facts.get("distances", {}), facts.get("importances", {})
    threshold = replay.params.monitor.drift.threshold
    drifted = sorted(
        (name for name, value in distances.items() if value >= threshold),
        key=lambda name: -importances.get(name, 0.0) * distances[name],
    )
    return {
        "period": step.period,
        "rows": len(seen),
        "release": step.release,
        "version": step.version,
        "metric": {
            "name": replay.params.gate.metric,
            "live": metrics.measure_recorded(
                replay.params.gate.metric, known, task=manifest.task, classes=manifest.classes
            )
            if manifest
            else None,
            "frozen": baseline["frozen"],
            "every_period": baseline["every_period"],
        },
        "drift": {
            "share": len(drifted) / len(distances) if distances else 0.0,
            "columns": drifted,
            "impact": decision.evidence.get("impact") if decision else None,
            "predictions": facts.get("prediction_distance"),
        },
        "decision": {"id": decision.id, "action": decision.action, "cause": decision.cause} if decision else None,
        "retrain_flow_run": outcome.owner if outcome else None,
        "gate": {"passed": gate.passed, "reason": gate.reason} if gate else None,
        "rollout": mine["id"] if (mine := _rollout_of(outcome, rollouts)) else None,
        "promoted": evidence["release"] if _promoted(outcome, mine) else None,
    }


def _rollout_of(outcome: Outcome | None, rollouts: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    id = outcome.evidence.get("rollout") if outcome else None
    return next((found for found in rollouts if found["id"] == id), None)


def _promoted(outcome: Outcome | None, rollout: Mapping[str, Any] | None) -> bool:
    return (outcome is not None and outcome.result == "promoted") or (rollout is not None and bool(rollout["promoted"]))


def _retrain_times(retrains: Sequence[ReplayStep]) -> dict[str, list[float]]:
    """Seconds from decision to Running, and of each whole retrain."""
    waits, lasts = [], []
    for step in retrains:
        assert step.retrain is not None
        assert step.decision is not None
        start, end = orchestrator.run_times(step.retrain.owner)
        if start and step.decision.recorded_at:
            waits.append(round((start - step.decision.recorded_at).total_seconds(), 2))
        if start and end:
            lasts.append(round((end - start).total_seconds(), 2))
    return {"event_to_running": waits, "retrain": lasts}


def table(summary: Mapping[str, Any]) -> str:
    """The summary as a person reads it."""
    name = summary["periods"][0]["metric"]["name"]
    lines = [
        f"{'period':<9}{'answers':>8}  {'version':>7}  {'live':>6}  {'frozen':>6}  {'every':>6}  {'drift':>5}"
        "  decision",
        *(_line(row) for row in summary["periods"]),
    ]
    t, s = summary["totals"], summary["timings_s"]
    gain, most = t["mean_live"] - t["mean_frozen"], t["mean_every_period"] - t["mean_frozen"]
    worth = f", {gain / most:.0%} of what a retrain every period gains" if most > 0 else ""
    lines += [
        f"{'mean':<9}{'':>8}  {'':>7}  {t['mean_live']:>6.3f}  {t['mean_frozen']:>6.3f}"
        f"  {t['mean_every_period']:>6.3f}",
        "",
        f"{name}: the loop gained {gain:+.3f} over the model that was never retrained{worth}, "
        f"with {t['retrains']} retrains instead of {len(summary['periods'])}.",
        f"{t['predictions']:,} answers, {t['lost_predictions']} of them not in telemetry; {t['labels']:,} labels; "
        f"{t['promotions']} promotions, {t['rejections']} rejections, {t['rollbacks']} rollbacks.",
        *rollouts_module.format_lines(summary["rollouts"]),
    ]
    if s["event_to_running"]:
        lines.append(
            f"From decision to running retrain: {_median(s['event_to_running']):.1f} s; a retrain took "
            f"{_median(s['retrain']):.1f} s (medians)."
        )
    return "\n".join(lines)


def _line(row: Mapping[str, Any]) -> str:
    metric, decision = row["metric"], row["decision"]
    what = f"{decision['action']}: {decision['cause']}" if decision else "the batch was quarantined"
    if row["gate"]:
        kept = "in rollout" if row["rollout"] else "rejected"
        what += f" -> {'promoted' if row['promoted'] else kept}"
    return (
        f"{row['period']:<9}{row['rows']:>8,}  {row['version']:>7}  {metric['live']:>6.3f}  {metric['frozen']:>6.3f}  "
        f"{metric['every_period']:>6.3f}  {row['drift']['share']:>5.0%}  {what}"
    )


def _median(values: Sequence[float]) -> float:
    return float(pd.Series(values).median())


def picture(summary: Mapping[str, Any], path: Path) -> None:
    """The same as a picture: the loop against its baselines, and where it retrained."""
    from matplotlib.figure import Figure

    rows, totals = summary["periods"], summary["totals"]
    name, periods = rows[0]["metric"]["name"], [row["period"] for row in rows]
    figure = Figure(figsize=(10, 5.2), layout="constrained", dpi=110)
    axes = figure.subplots()
    for key, label, colour, style in (
        ("frozen", f"never retrained ({totals['mean_frozen']:.3f})", "#b0b0b0", "-"),
        ("every_period", f"retrained every period ({totals['mean_every_period']:.3f})", "#d9822b", ":"),
        ("live", f"Trimtab ({totals['mean_live']:.3f}, {totals['retrains']} retrains)", "#1f5fa8", "-"),
    ):
        values = [row["metric"][key] for row in rows]
        axes.plot(periods, values, style, color=colour, label=label, marker="o", linewidth=2 if key == "live" else 1.5)
    low = min(min(row["metric"][k] for k in ("live", "frozen", "every_period")) for row in rows)
    for place, row in enumerate(rows):
        if row["retrain_flow_run"]:
            axes.axvline(place + 0.5, color="#1f5fa8", alpha=0.35, linestyle="--")
            axes.annotate(
                _outcome_label(row, summary["rollouts"]), (place + 0.5, low),
                xytext=(-2, 0), textcoords="offset points", rotation=90, fontsize=8, color="#1f5fa8",
                ha="right", va="bottom",
            )  # fmt: skip
    axes.set(title="What the loop was worth", ylabel=f"{name}, answers users got", xlabel="")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    axes.legend(frameon=False, loc="upper right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _outcome_label(row: Mapping[str, Any], rollouts: Sequence[Mapping[str, Any]]) -> str:
    """What a period's retrain came to, in a word or two."""
    found = next((f for f in rollouts if f["id"] == row["rollout"]), None)
    if found is None:
        return "promoted" if row["promoted"] else "rejected"
    return f"version {found['version']}" + ("" if found["promoted"] else f": {found['state']}")


def write(summary: Mapping[str, Any], folder: Path) -> None:
    """`summary.json` and `replay.png` in *folder*."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps(summary, indent=1, allow_nan=False))
    picture(summary, folder / "replay.png")
