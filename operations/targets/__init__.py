"""The place where releases run, as the settings name it: model servers that run already, Docker, or Kubernetes."""

from __future__ import annotations

from operations.context import ProjectContext
from operations.targets.contract import Target, TargetRejected


def target_for(ctx: ProjectContext) -> Target:
    """The target that the settings name."""
    if ctx.settings.target == "docker":
        from operations.targets.docker import DockerTarget

        return DockerTarget(ctx)
    if ctx.settings.target == "kubernetes":
        from operations.targets.kubernetes import KubernetesTarget

        return KubernetesTarget(ctx)
    from operations.targets.running_servers import RunningServers

    return RunningServers(ctx)


def reconcile(ctx: ProjectContext) -> list[str]:
    """Let the target follow the ledger; what was done, in words.

    A failure is one of these words: the flow reconcile tries again a minute later, and meanwhile the servers that run
    go on answering, as each of them follows the ledger by itself.
    """
    try:
        return target_for(ctx).reconcile()
    except TargetRejected as error:
        return [f"the {ctx.settings.target} target has not followed the ledger: {error}"]


def follow(ctx: ProjectContext) -> None:
    """Let the target follow the ledger, and print what was done."""
    for action in reconcile(ctx):
        print(action)
