"""Deploy: a release sets out to become champion. It is loaded beside the champion and probed; then it scores users'
requests in the shadow, answers some of them, and takes over once labels show that it is not worse. The ledger says at
every moment which release answers; servers and MLflow's alias follow it."""

from __future__ import annotations

from prefect import flow
from prefect.runtime import flow_run

from operations import experiments, live, rollout_start, rollouts
from operations.context import load_context, short


def _name() -> str:
    return f"deploy-{short(flow_run.parameters.get('release'))}"


@flow(flow_run_name=_name)
def deploy(
    release: str,
    cause: str = "asked for by hand",
    at_once: bool = False,
    watch_s: int = 300,
    rollout: str | None = None,
) -> str:
    """Roll out *release*; the state that it came to. Doing it again goes on where the last run stopped.

    Args:
        release: digest of a release, or its first characters
        cause: why, for the history
        at_once: make it champion after the probe, without a trial on live traffic
        watch_s: seconds to watch the rollout; after that reconcile advances it every minute
        rollout: one that has begun; then this run watches it and begins none, whatever its state is
    """
    ctx = load_context()
    digest = live.find_release(ctx, release)
    if rollout is not None:
        return rollouts.watch(ctx, rollout, watch_s)
    experiments.end_running(ctx, f"release {short(digest)} is to be deployed")
    before = ctx.ledger.live()
    if before and before.champion == digest and not (at_once and before.challenger):
        print(f"{short(digest)} is live already.")
        live.follow(ctx, before)
        live.show_live(before)
        return "champion"
    if before is None or at_once:
        return rollout_start.promote_at_once(ctx, digest, before, cause)
    trial = live.current_trial(ctx, before)
    if trial is not None and trial.rollout.release == digest:
        return rollouts.watch(ctx, trial.rollout.id, watch_s)
    return rollouts.watch(ctx, rollout_start.begin_shadow(ctx, digest, before, cause), watch_s)
