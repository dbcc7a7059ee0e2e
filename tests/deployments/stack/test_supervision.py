"""What the supervisor promises, shown on small fake parts."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from deployments import stack
from deployments.stack import control, processes, state
from deployments.stack.managed_process import ManagedProcess
from deployments.stack.plan import Component, Plan, Probe
from deployments.stack.processes import is_alive
from deployments.stack.supervisor import rotate
from tests.deployments.stack.conftest import Running, script, web
from tests.waiting import eventually

NEVER = Probe("http", "http://127.0.0.1:9/")
JOB = Probe("exit")


def test_a_part_waits_for_those_that_it_needs(running: Running) -> None:
    slow = script("first", "import time; time.sleep(0.7)", JOB)
    running.start(web("second", needs=("first",)), slow)
    assert running.said[0].startswith("first ready")
    assert running.part("second").state == "running"
    assert running.part("first").state == "done"


def test_a_part_that_dies_is_restarted_and_that_can_be_seen(running: Running) -> None:
    running.start(web("web"))
    before = running.part("web").pid
    assert before is not None
    os.kill(before, signal.SIGKILL)
    eventually(lambda: running.part("web").state == "running" and running.part("web").restarts == 1, "it runs again")
    after = running.part("web")
    assert after.pid != before
    assert after.last_error == "killed by SIGKILL"
    assert "web: killed by SIGKILL; restart 1" in (running.state / "logs" / "supervisor.log").read_text()


def test_stopping_leaves_no_process_even_of_those_that_have_left_the_family(running: Running) -> None:
    runaway = (
        "import subprocess, sys, time;"
        "subprocess.Popen(['sh', '-c', 'sleep 300 & wait'], start_new_session=True);"
        "subprocess.Popen(['setsid', '-f', 'sleep', '300']).wait(); time.sleep(300)"
    )
    part = script("runaway", runaway, Probe("command", command=("true",)))
    running.start(part, web("web"))
    mark = state.recorded(running.state)["supervisor"]["mark"]
    eventually(lambda: len(processes.with_marker(mark)) >= 5, "all five processes")
    everything = [*running.processes(), *processes.with_marker(mark)]
    assert control.stop(running.state)
    assert [process for process in everything if is_alive(process)] == []
    assert processes.with_marker(mark) == []
    assert running.part("web").state == "stopped"


def test_a_killed_supervisor_takes_its_parts_along_and_can_be_followed_by_another(running: Running) -> None:
    running.start(web("web"))
    everything = running.processes()
    running.supervisor.kill()
    control.stop(running.state)
    eventually(lambda: not any(is_alive(process) for process in everything[1:]), "nothing of it is left")
    running.start(web("web"))
    assert running.part("web").state == "running"


def test_a_part_that_will_not_go_is_killed(running: Running) -> None:
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(300)"
    )
    running.start(script("deaf", deaf, Probe("command", command=("true",)), stop_timeout_s=0.3))
    eventually(lambda: "deaf" in (running.state / "logs" / "deaf.log").read_text(), "it has begun")
    process = psutil.Process(running.part("deaf").pid)
    control.stop(running.state)
    assert not is_alive(process)


def test_a_part_that_cannot_start_is_reported_with_the_end_of_its_log(running: Running) -> None:
    broken = script("broken", "print('the disk is on fire'); raise SystemExit(7)", NEVER)
    with pytest.raises(
        stack.StackError, match=r"broken does not start: ended with exit code 7.*\n.*the disk is on fire"
    ):
        running.start(broken)


def test_a_program_that_does_not_exist_is_reported(running: Running) -> None:
    with pytest.raises(stack.StackError, match=r"ghost does not start: cannot be started: .*No such file"):
        running.start(Component("ghost", ("/no/such/program",), NEVER))


def test_a_job_that_fails_is_tried_three_times_and_no_more(running: Running) -> None:
    job = script("job", "print('tried'); raise SystemExit(1)", JOB)
    with pytest.raises(stack.StackError, match="job does not start"):
        running.start(job)
    time.sleep(0.5)
    assert (running.state / "logs" / "job.log").read_text().count("tried") == 3


def test_there_is_never_a_second_supervisor(running: Running) -> None:
    running.start(web("web"))
    before = running.supervisor.pid
    with pytest.raises(stack.StackError, match="still stopping"):
        control.start(Plan(running.state, (web("web"),)))
    assert running.supervisor.pid == before


def test_a_pid_that_belongs_to_somebody_else_by_now_is_left_alone(tmp_path: Path) -> None:
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        record = {
            "supervisor": {"pid": stranger.pid, "start_time": 1.0, "mark": "gone"},
            "components": {"web": {"pid": stranger.pid, "start_time": 1.0}},
        }
        (tmp_path / "stack.json").write_text(json.dumps(record))
        assert not control.stop(tmp_path)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_secrets_reach_the_part_and_nothing_else(running: Running) -> None:
    text = "import os, time; print(len(os.environ['KEY']), flush=True); time.sleep(300)"
    running.start(script("safe", text, Probe("command", command=("true",)), env={"KEY": "hush-hush"}))
    eventually(lambda: (running.state / "logs" / "safe.log").read_text() == "9\n", "its end")
    files = [path.read_text() for path in running.state.rglob("*") if path.is_file()]
    arguments = [" ".join(process.cmdline()) for process in running.processes()]
    assert not any("hush-hush" in text for text in [*files, *arguments])


def test_a_stack_whose_state_folder_is_deleted_stops(running: Running) -> None:
    running.start(web("web"))
    everything = running.processes()
    for path in sorted(running.state.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    eventually(lambda: not any(is_alive(process) for process in everything[1:]), "nothing of it is left")
    assert len(everything) > 1, "there was something to stop"


def test_the_supervisor_is_small(running: Running) -> None:
    running.start(web("web"))
    assert processes.memory_mb(running.supervisor, alone=True) < 30
    loaded = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import deployments.stack.supervisor"],
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    assert "pydantic" not in loaded
    assert "prefect" not in loaded


def test_a_part_is_unhealthy_after_three_bad_answers_and_well_after_one_good_one() -> None:
    child = ManagedProcess(web("web"), state="running")
    assert [child.on_probe("no answer"), child.state] == [None, "running"]
    child.on_probe("no answer")
    assert child.on_probe("no answer") == "unhealthy: no answer"
    assert child.on_probe(None) == "running: answers again"


def test_the_pause_before_a_restart_doubles_up_to_half_a_minute() -> None:
    child = ManagedProcess(web("web"), started_at=time.time())
    pauses = []
    for _ in range(8):
        child.fail("dead")
        pauses.append(round(child.next_start - time.monotonic(), 1))
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30]


def test_a_log_that_grows_too_long_is_emptied_and_its_past_kept(tmp_path: Path) -> None:
    long, short = tmp_path / "long.log", tmp_path / "short.log"
    with long.open("ab") as writer:
        writer.write(b"x" * 100)
        writer.flush()
        short.write_text("short")
        rotate(tmp_path, limit_bytes=50)
        writer.write(b"new")
    assert long.read_bytes() == b"new"
    assert (tmp_path / "long.log.1").read_bytes() == b"x" * 100
    assert short.read_text() == "short"


def test_a_plan_survives_the_pipe() -> None:
    plan = Plan(Path("/somewhere"), (web("web", needs=("job",), uid=7), script("job", "pass", JOB, env={"A": "b"})))
    assert Plan.loads(plan.dumps()) == plan
