"""`trimtab experiment`: argument parsing and printing. Start and stop run as flows, which Prefect records; a report
needs no flow and works without Prefect."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.environment import use_stack
from trimtab.config.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Let two releases answer users side by side, and see what it makes.")

Name = Annotated[str | None, typer.Argument(help="The experiment's name; otherwise the newest.")]


@app.command()
def start(
    a: Annotated[str, typer.Argument(help="Digest of a release, or its first characters.")],
    b: Annotated[str, typer.Argument(help="The other one.")],
    share: Annotated[float, typer.Option(help="Of the keys that B answers, above 0 and below 1.")] = 0.5,
    duration: Annotated[str, typer.Option("--for", help="Of data time, like 7d or 12h.")] = "7d",
    name: Annotated[str | None, typer.Option(help="To tell experiments apart.")] = None,
    instead: Annotated[bool, typer.Option("--instead", help="End the rollout or experiment that goes on.")] = False,
) -> None:
    """Let B answer a share of the keys and A the others. The same again reports, and starts nothing."""
    use_stack(Settings())
    from deployments import local_run

    parameters = {"a": a, "b": b, "share": share, "duration": duration, "name": name, "instead": instead}
    typer.echo(local_run.run("experiment", parameters))


@app.command()
def stop(
    name: Name = None,
    reason: Annotated[str, typer.Option(help="Why, for the history.")] = "asked for by hand",
) -> None:
    """End an experiment before its time: the champion from before answers again."""
    use_stack(Settings())
    from deployments import local_run

    typer.echo(local_run.run("stop-experiment", {"name": name, "reason": reason}))


@app.command()
def report(
    name: Name = None, as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False
) -> None:
    """Effect, interval, power, and whether the split holds; at any time, also after the end."""
    use_stack(Settings())
    from operations import experiment_reports, experiments
    from operations.context import load_context

    context = load_context()
    row = experiments.find(context, name)
    found = experiment_reports.report(context, row.id)
    text = experiment_reports.to_markdown(context, found)
    typer.echo(found.model_dump_json(indent=1) if as_json else text)
    experiment_reports.log_report(context, row.id, found, text)
