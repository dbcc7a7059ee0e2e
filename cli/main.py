"""The `trimtab` command: argument parsing and printing, nothing else."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from cli import experiments
from cli.environment import use_stack
from trimtab.config.settings import Settings, settings_to_stop

app = typer.Typer(
    name="trimtab", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="CI/CD for machine-learning models: trained, tested, released, watched, and corrected when the data drifts.",
)  # fmt: skip
app.add_typer(experiments.app, name="experiment")

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
S3 = Annotated[bool, typer.Option("--s3", help="Keep data, models and telemetry on an S3 server of the stack's own.")]
FLOWS = (
    "ingest",
    "validate",
    "train",
    "evaluate",
    "register",
    "deploy",
    "drift-monitor",
    "retrain",
    "rollback",
    "reconcile",
)


def _say(text: str) -> None:
    typer.echo(text)


@app.command()
def inspect(
    data: Annotated[Path, typer.Argument(help="A CSV or Parquet file with all columns, some periods long.")],
    target: Annotated[str, typer.Option(help="The column to predict.")],
    time: Annotated[str | None, typer.Option(help="The column that says when a row happened.")] = None,
    id: Annotated[str | None, typer.Option(help="The column that has another value in every row.")] = None,
    key: Annotated[str | None, typer.Option(help="Who or what a row is about, like a customer.")] = None,
    every: Annotated[str | None, typer.Option(help="hour, day, week, month, quarter or year.")] = None,
    as_json: Json = False,
) -> None:
    """Look at a table: what each column is for, what may give the target away, and the params that follow."""
    from tasks.table_samples import read_sample
    from trimtab.profile import findings
    from trimtab.profile.calendar import LENGTHS
    from trimtab.profile.table import Asked, profile_table

    lengths = {length: length for length in LENGTHS}
    if every is not None and every not in lengths:
        raise typer.BadParameter(f"--every {every}: use one of {', '.join(lengths)}")
    rows, how = read_sample(data)
    found = profile_table(rows, Asked(target, time, id, key, lengths[every] if every else None))
    if as_json:
        _say(json.dumps(findings.as_json(found, len(rows), how), indent=1))
    else:
        _say(findings.format_findings(found, len(rows), how))


@app.command()
def up(s3: S3 = False) -> None:
    """Start the stack: PostgreSQL, Prefect, MLflow, the model server and a worker. A second time changes nothing."""
    from deployments import stack
    from trimtab.config import params

    settings = _on_s3(Settings(), s3)
    params.load(settings.root)  # report a mistake in it before servers start
    found = stack.up(settings, echo=_say)
    for part in found.components:
        if part.url:
            _say(f"  {part.name:<9} {part.url}")


@app.command()
def down(
    everything: Annotated[bool, typer.Option("--all", help="The demo's stack as well.")] = False,
) -> None:
    """Stop exactly what `up` started."""
    from deployments import stack
    from deployments.replay import demo

    settings = _settings_to_stop()
    for place in (settings, demo.demo_settings(settings)) if everything else (settings,):
        stack.down(place, echo=_say)


@app.command()
def status(as_json: Json = False) -> None:
    """Each part's health, who is live, and the last decision."""
    from deployments import status

    found = status.collect(_settings_to_stop())
    _say(json.dumps(found, indent=1, default=str) if as_json else status.format_status(found))
    if found["params"]:
        typer.echo(f"trimtab: {found['params']}", err=True)
        sys.exit(1)


@app.command()
def run(
    flow: Annotated[str, typer.Argument(help=f"One of {', '.join(FLOWS)}.")],
    param: Annotated[list[str] | None, typer.Option("--param", "-p", help="name=value, as often as needed.")] = None,
) -> None:
    """Run a flow here and now, in this process, against the running stack."""
    if flow not in FLOWS:
        raise typer.BadParameter(f"there is no flow {flow}: use one of {', '.join(FLOWS)}")
    settings = Settings()
    use_stack(settings)
    from deployments import local_run

    _say(str(local_run.run(flow, _pairs(param or []))))


@app.command()
def history(as_json: Json = False) -> None:
    """Who was live when, and why."""
    from deployments import status

    rows = status.history(Settings())
    _say(json.dumps(rows, indent=1, default=str) if as_json else status.format_history(rows))


@app.command()
def promote(
    release: Annotated[str, typer.Argument(help="Digest of a release, or its first characters.")],
    reason: Annotated[str, typer.Option(help="Recorded in the history.")] = "asked for by hand",
) -> None:
    """Make a release the champion at once, after a probe and without a rollout."""
    use_stack(Settings())
    from deployments import local_run

    _say(str(local_run.run("deploy", {"release": release, "cause": reason, "at_once": True})))


@app.command()
def rollback(
    reason: Annotated[str, typer.Option(help="Recorded in the history.")] = "asked for by hand",
    to: Annotated[str | None, typer.Option(help="A release; otherwise the one before the live one.")] = None,
) -> None:
    """Undo the newest move in one step: end the open rollout, or restore the previous champion."""
    use_stack(Settings())
    from deployments import local_run

    _say(f"ledger version {local_run.run('rollback', {'reason': reason, 'to': to})}")


@app.command()
def demo(
    last: Annotated[str, typer.Option(help="Last period to replay.")] = "2013-12",
    take_down: Annotated[bool, typer.Option("--down", help="Stop the stack at the end, for scripts.")] = False,
    s3: S3 = False,
) -> None:
    """The main job in one go: a year of flights replayed through the loop, and what it was worth."""
    from deployments import stack
    from deployments.replay import demo
    from trimtab.config import params

    began, settings = time.monotonic(), _on_s3(Settings(), s3)
    params.load(settings.root)
    place = demo.start(settings, echo=_say)
    up_s = time.monotonic() - began
    try:
        demo.replay(place, last=last, echo=_progress, up_s=up_s)
        _say("\n" + demo.where_to_look(place))
    finally:
        if take_down:
            stack.down(place, echo=_say)
    if not take_down:
        _say("The stack stays up for a look; `make down` ends it.")


@app.command()
def replay(
    first: Annotated[str | None, typer.Option(help="First period; otherwise the one after first_train.")] = None,
    last: Annotated[str | None, typer.Option(help="Last period; otherwise the last of that year.")] = None,
) -> None:
    """Replay data time on the running stack: requests, late labels, and the loop's reactions."""
    use_stack(Settings())
    from deployments.replay import demo

    demo.replay(Settings(), first=first, last=last, echo=_progress)


def _progress(text: str) -> None:
    """Print a line of progress. One that begins with a carriage return is overwritten by the next on a terminal."""
    is_passing, is_terminal = text.startswith("\r"), sys.stderr.isatty()
    if is_terminal:
        typer.echo(f"\r\033[K{text.lstrip(chr(13))}" if is_passing else "\r\033[K", nl=False, err=True)
    if not is_passing:
        typer.echo(text)


def _settings_to_stop() -> Settings:
    settings, trouble = settings_to_stop()
    if trouble:
        typer.echo(f"trimtab: {trouble}; going by the folders alone", err=True)
    return settings


def _on_s3(settings: Settings, asked: bool) -> Settings:
    return settings.model_copy(update={"s3": True}) if asked else settings


def _pairs(texts: list[str]) -> dict[str, Any]:
    pairs: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"{text!r}: write name=value")
        pairs[name] = value
    return pairs


def main() -> None:
    """Run the command. An error is printed in one line; TRIMTAB_DEBUG=1 shows its traceback."""
    from cli.errors import format_error

    os.umask(os.umask(0o077) | 0o022)  # nothing that any process of ours makes can be changed by other users
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if os.environ.get("TRIMTAB_DEBUG"):
            raise
        typer.echo(f"trimtab: {format_error(error)}", err=True)
        sys.exit(1)
