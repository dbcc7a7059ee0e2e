"""What the Docker worker does beside its runs, without an engine."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from deployments.workers import docker_worker
from tasks import containers


class Enough(Exception):
    """Ends what would go on for ever."""


def test_an_engine_that_refuses_once_does_not_end_the_cleanup(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refusal = containers.EngineRejected("Docker would not remove ended containers: timed out")
    answers: Iterator[int | Exception] = iter([refusal, 3, Enough()])

    def remove_exited(labels: dict[str, str], older_s: float) -> int:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(containers, "remove_exited", remove_exited)
    monkeypatch.setattr(docker_worker, "CLEANUP_INTERVAL_S", 0.01)
    with pytest.raises(Enough):
        asyncio.run(asyncio.wait_for(docker_worker.remove_lost_containers("runs"), 10))
    refused, gone = capsys.readouterr().out.splitlines()
    assert "timed out" in refused
    assert gone == "removed 3 exited containers of lost workers"
