"""The pages on deployments and events, metrics, and alert rules.

Events and metrics are read from the syntax tree: most exist only while a flow or a server runs.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import yaml

from deployments.definitions import DeploymentSpec, deployment_specs
from tools.reference.tables import ROOT, check_complete, table
from trimtab.config import params
from trimtab.config.settings import Settings

EVENTS = {
    "trimtab.batch.accepted": "a batch passed validation",
    "trimtab.batch.quarantined": "a batch was refused whole; an alert is raised as well",
    "trimtab.drift.detected": "a period asks for a retrain because of its inputs or predictions",
    "trimtab.quality.degraded": "a period asks for a retrain because of its labels",
    "trimtab.release.created": "a candidate passed the gate and became a release",
    "trimtab.rollout.started": "a release scores in the shadow",
    "trimtab.rollout.promoted": "a release became champion",
    "trimtab.rollout.rolled-back": "a challenger was refused or rolled back, or a promotion was reverted",
    "trimtab.experiment.started": "an experiment runs",
    "trimtab.experiment.ended": "an experiment is over",
}
_EVENT = re.compile(r"trimtab\.(batch|drift|quality|release|rollout|experiment)\.[a-z-]+")
_KINDS = {"counter": "counter", "histogram": "histogram"}


# --- events and deployments


def events_page() -> str:
    """Deployments, and the events that connect them. Raises Incomplete."""
    emitted = _emitted()
    check_complete("events", emitted, EVENTS)
    specs = deployment_specs(params.load(ROOT), Settings.model_construct())
    starts = {event: [f"`{spec.full_name}`" for spec in specs if event in spec.events] for event in EVENTS}
    rows = [[f"`{e}`", about, ", ".join(emitted[e]), ", ".join(starts[e])] for e, about in EVENTS.items()]
    return "\n\n".join(
        [
            "# Events and deployments",
            "Every event is about the resource `trimtab.<project>`, carries `trimtab.fact` (the id of what happened: "
            "an event sent twice counts once), and a payload with the ids that the started flow needs. Events are "
            "the fast path; the [ledger](ledger.md) is the record ([The loop](../explanation/loop.md)).",
            "## Events",
            table(["event", "when", "emitted by", "starts"], rows),
            "## Deployments",
            "What `trimtab up` registers in Prefect. Times are those of this repository's `params.yaml`.",
            table(["deployment", "does", "started by"], [_deployment(spec) for spec in specs]),
        ]
    )


def _deployment(spec: DeploymentSpec) -> list[str]:
    how = [f"cron `{spec.cron}`"] if spec.cron else []
    how += [f"`{event}`" for event in spec.events]
    how += ["a failed or crashed run"] if spec.after_lost_runs else []
    return [f"`{spec.full_name}`", spec.description, ", ".join(how) or "hand"]


def _emitted() -> dict[str, list[str]]:
    """Files by the event that they name; triggers in deployments do not count."""
    found: dict[str, list[str]] = {}
    for path in _modules("flows", "operations", "tasks"):
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.Constant) and _is_event(node.value):
                files = found.setdefault(str(node.value), [])
                name = f"`{path.relative_to(ROOT)}`"
                files += [name] if name not in files else []
    return found


def _is_event(value: object) -> bool:
    """Modules of trimtab/ have names of the same form."""
    if not isinstance(value, str) or not _EVENT.fullmatch(value):
        return False
    return not (ROOT / value.replace(".", "/")).with_suffix(".py").exists()


# --- metrics and alerts


def metrics_page() -> str:
    """Metrics of the model server and of the exporter."""
    head = ["metric", "type", "labels", "meaning"]
    return "\n\n".join(
        [
            "# Metrics",
            "For Prometheus. Timestamps are Unix times: `time() - trimtab_loop_last_reconcile_timestamp_seconds` is an "
            "age. The alert rules on them are in [alerts](alerts.md).",
            "## The model server",
            "At `/metrics` of each server, with memory and CPU of the process (`process_…`).",
            table(head, _metrics("trimtab_", "serving/metrics")),
            "## The exporter",
            "At port 9464 of `python -m deployments.exporter`, one for each loop.",
            table(head, _metrics("trimtab_loop_", "deployments/exporter")),
        ]
    )


def _metrics(prefix: str, folder: str) -> list[list[str]]:
    """A metric is created by a call whose first two arguments are its name and its sentence."""
    rows = {}
    for path in _modules(folder):
        constants = _lists(_tree(path))
        for node in ast.walk(_tree(path)):
            if not isinstance(node, ast.Call) or len(node.args) < 2:
                continue
            name, about = node.args[:2]
            if not (_text(name) and _text(about) and _text(about).endswith(".")):
                continue
            called = ast.unparse(node.func).lower()
            kind = next((kind for word, kind in _KINDS.items() if word in called), "gauge")
            full = _text(name) if _text(name).startswith("trimtab_") else prefix + _text(name)
            full += "_total" if kind == "counter" else ""
            labels = ", ".join(f"`{label}`" for label in _labels(node, constants))
            rows[full] = [f"`{full}`", kind, labels, _text(about)]
    return [rows[name] for name in sorted(rows)]


def _labels(call: ast.Call, constants: Mapping[str, list[str]]) -> list[str]:
    """Labels are a list (literal, or a variable that holds one), or further texts."""
    rest = [*call.args[2:], *(keyword.value for keyword in call.keywords if keyword.arg in ("labels", "labelnames"))]
    for node in rest:
        if isinstance(node, ast.List | ast.Tuple) and all(_text(item) for item in node.elts):
            return [_text(item) for item in node.elts]
        if isinstance(node, ast.Name) and node.id in constants:
            return constants[node.id]
    return [_text(node) for node in rest if _text(node)]


def _lists(tree: ast.Module) -> dict[str, list[str]]:
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.List):
            found[node.targets[0].id] = [_text(item) for item in node.value.elts]
    return found


def _text(node: ast.expr) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def alerts_page() -> str:
    """The alert rules, with their runbooks."""
    parts = [
        "# Alerts",
        "Rules for Prometheus. `page` is for what users notice now, `ticket` for what can wait until morning. Each has "
        "a runbook: what it means, what to look at, what to do. How to install them is in "
        "[Watch it](../how-to/watching.md).",
    ]
    for title, name in (("On the model servers", "alerts.yaml"), ("On the loop", "loop.yaml")):
        groups = yaml.safe_load((ROOT / "infra" / "prometheus" / name).read_text())["groups"]
        rules = [rule for group in groups for rule in group["rules"] if "alert" in rule]
        parts += [
            f"## {title}",
            f"In `infra/prometheus/{name}`.",
            table(["alert", "severity", "means"], map(_alert, rules)),
        ]
    return "\n\n".join(parts)


def _alert(rule: Mapping[str, object]) -> list[str]:
    annotations, labels = rule["annotations"], rule["labels"]
    assert isinstance(annotations, dict)
    assert isinstance(labels, dict)
    page = str(annotations["runbook"]).removeprefix("docs/")
    summary = re.sub(r"{{.*?}}", "…", str(annotations["summary"]))
    return [f"[{rule['alert']}](../{page})", str(labels["severity"]), summary]


def _modules(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))
