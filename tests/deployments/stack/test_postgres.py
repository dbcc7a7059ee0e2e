"""The embedded PostgreSQL, really run, and a server of the user's own (the same one, addressed by URL)."""

import os
import pwd
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

from deployments import stack
from deployments.stack import external_postgres
from deployments.stack import postgres as embedded
from deployments.stack.addresses import database_url
from deployments.stack.plan import CODE
from deployments.stack.processes import is_alive
from tests.deployments.stack.conftest import make_settings
from tests.waiting import eventually
from trimtab.config.settings import Settings

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def password(settings: Settings) -> str:
    return embedded.passfile(settings).read_text().strip().rsplit(":", 1)[1]


def python_for_all() -> str:
    """A Python of this version that any user may run; ours may be hidden in somebody's home folder."""
    public = f"/usr/bin/python3.{sys.version_info.minor}"
    for candidate in (sys.executable, public):
        whole = Path(candidate).resolve()
        if whole.exists() and all(part.stat().st_mode & 0o001 for part in (whole, *whole.parents)):
            return candidate
    pytest.skip("no Python that another user could run")


def ask(settings: Settings, text: str, database: str = "ledger") -> object:
    engine = sa.create_engine(database_url(settings, "psycopg", database), isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            result = connection.execute(sa.text(text))
            return result.scalar() if result.returns_rows else None
    finally:
        engine.dispose()


def test_it_is_durable_small_and_only_heard_on_this_machine(postgres: Settings) -> None:
    assert ask(postgres, "show fsync") == "on"
    assert ask(postgres, "show synchronous_commit") == "on"
    assert ask(postgres, "show listen_addresses") == "127.0.0.1"
    assert ask(postgres, "show shared_buffers") == "64MB"
    assert ask(postgres, "select count(*) from pg_database where datname in ('prefect', 'mlflow', 'ledger')") == 3
    assert ask(postgres, "select count(*) from pg_available_extensions where name = 'pg_trgm'") == 1


def test_nobody_gets_in_without_the_password_which_only_its_owner_can_read(postgres: Settings) -> None:
    assert stat.S_IMODE(embedded.passfile(postgres).stat().st_mode) == 0o600
    stranger = stack.ledger_url(postgres).split("?")[0]
    with pytest.raises(sa.exc.OperationalError, match="password"):
        sa.create_engine(stranger).connect()


def test_the_password_is_in_no_argument_no_record_and_no_log(postgres: Settings) -> None:
    supervisor = psutil.Process(stack.status(postgres).supervisor_pid)
    arguments = " ".join(" ".join(p.cmdline()) for p in [supervisor, *supervisor.children(recursive=True)])
    files = [p for p in postgres.state.rglob("*") if p.is_file() and p.suffix in (".json", ".log")]
    assert len(files) >= 3
    assert password(postgres) not in arguments + "".join(path.read_text() for path in files)
    assert password(postgres) not in str(stack.environment(postgres)) + stack.ledger_url(postgres)


def test_a_second_up_changes_nothing_and_is_quick(postgres: Settings) -> None:
    said: list[str] = []
    before, started = stack.status(postgres), time.monotonic()
    after = stack.up(postgres, echo=said.append, only=["postgres"])
    assert time.monotonic() - started < 3
    assert (after["postgres"].pid, after.supervisor_pid) == (before["postgres"].pid, before.supervisor_pid)
    assert said == []


def test_the_status_tells_state_address_and_memory(postgres: Settings) -> None:
    part = stack.status(postgres)["postgres"]
    assert (part.state, part.url) == ("running", f"postgresql://127.0.0.1:{postgres.postgres_port}")
    assert 5 < (part.rss_mb or 0) < 120
    assert (part.uptime_s or 0) > 0


def test_what_was_committed_survives_kill_9(postgres: Settings) -> None:
    ask(postgres, "create table if not exists kept (x int)")
    ask(postgres, "insert into kept values (42)")
    before = stack.status(postgres)["postgres"]
    assert before.pid is not None
    os.kill(before.pid, signal.SIGKILL)
    eventually(lambda: stack.status(postgres)["postgres"].restarts == before.restarts + 1, "it is started again")
    eventually(lambda: stack.status(postgres)["postgres"].state == "running", "it runs")
    assert ask(postgres, "select x from kept limit 1") == 42


def test_running_with_other_settings_is_refused(postgres: Settings) -> None:
    moved = postgres.model_copy(update={"postgres_port": postgres.postgres_port + 1})
    with pytest.raises(stack.StackError, match="other settings for postgres; run `trimtab down` first"):
        stack.up(moved, echo=print, only=["postgres"])
    assert stack.status(postgres)["postgres"].state == "running"


def test_a_server_of_our_own_gets_the_databases_that_it_lacks(postgres: Settings, tmp_path: Path) -> None:
    url = f"postgresql://trimtab:{password(postgres)}@127.0.0.1:{postgres.postgres_port}/postgres"
    own = make_settings(tmp_path, postgres_url=url)
    ask(postgres, "drop database mlflow")
    external_postgres.prepare(own)
    external_postgres.prepare(own)
    assert ask(postgres, "select count(*) from pg_database where datname = 'mlflow'") == 1
    assert stack.status(own)["postgres"].state == "external"
    assert password(postgres) not in str(stack.status(own))
    assert ask(own, "select current_database()", "mlflow") == "mlflow"


def test_a_server_of_our_own_that_may_not_be_changed_says_what_to_run(postgres: Settings, tmp_path: Path) -> None:
    ask(postgres, "create role weak login password 'weak'")
    ask(postgres, "drop database mlflow")
    own = make_settings(tmp_path, postgres_url=f"postgresql://weak:weak@127.0.0.1:{postgres.postgres_port}/postgres")
    try:
        with pytest.raises(stack.StackError, match="have an administrator run: CREATE DATABASE mlflow;"):
            external_postgres.prepare(own)
    finally:
        ask(postgres, "create database mlflow")


def test_a_server_of_our_own_that_does_not_answer_is_a_clear_error(tmp_path: Path) -> None:
    own = make_settings(tmp_path, postgres_url="postgresql://me:hush-hush@127.0.0.1:9/x")
    with pytest.raises(stack.StackError, match=r"TRIMTAB_POSTGRES_URL.*not healthy") as caught:
        stack.up(own, echo=print, only=["postgres"])
    assert "hush-hush" not in str(caught.value)


def test_a_taken_port_starts_nothing(settings: Settings) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", settings.postgres_port))
        other.listen()
        with pytest.raises(stack.StackError, match=f"port {settings.postgres_port} .*TRIMTAB_POSTGRES_PORT"):
            stack.up(settings, echo=print, only=["postgres"])
    assert not (settings.state / "stack.json").exists()
    assert stack.status(settings).supervisor_pid is None


def test_two_ups_at_once_make_one_stack_that_keeps_its_data_over_down_and_up(settings: Settings) -> None:
    found: list[stack.StackStatus] = []
    ups = [
        threading.Thread(target=lambda: found.append(stack.up(settings, echo=print, only=["postgres"])))
        for _ in range(2)
    ]
    for one in ups:
        one.start()
    for one in ups:
        one.join()
    assert len({status.supervisor_pid for status in found}) == 1
    assert len(found) == 2
    ask(settings, "create table kept as select 7 as x")
    stack.down(settings, echo=print)
    stack.down(settings, echo=print)
    assert stack.status(settings)["postgres"].state == "stopped"
    stack.up(settings, echo=print, only=["postgres"])
    assert ask(settings, "select x from kept") == 7


def test_ctrl_c_in_the_middle_of_up_leaves_nothing_running(settings: Settings) -> None:
    code = textwrap.dedent(
        """
        from deployments import stack
        from trimtab.config.settings import Settings
        stack.up(Settings(), echo=lambda text: print(text, flush=True), only=["postgres", "mlflow"])
        """
    )
    env = {**os.environ, **stack.environment(settings), "PYTHONPATH": str(CODE)}
    interrupted = subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True)
    assert interrupted.stdout is not None
    for line in interrupted.stdout:
        if line.startswith("postgres ready"):
            break
    supervisor = psutil.Process(stack.status(settings).supervisor_pid)
    everything = [supervisor, *supervisor.children(recursive=True)]
    interrupted.send_signal(signal.SIGINT)
    assert interrupted.wait(20) != 0
    interrupted.stdout.close()
    assert [process for process in everything if is_alive(process)] == []
    assert stack.status(settings)["postgres"].state == "stopped"


def test_the_environment_leads_any_process_to_the_same_stack(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in stack.environment(settings).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir("/")
    there = Settings()
    assert (there.root, there.state) == (settings.root, settings.state)
    assert (there.prefect_api, there.tracking_uri) == (settings.prefect_api, settings.tracking_uri)
    assert stack.ledger_url(there) == stack.ledger_url(settings)


@AS_ROOT
def test_root_keeps_the_data_where_the_database_user_can_get(tmp_path: Path) -> None:
    hidden, open_ = tmp_path / "hidden", Path("/var/tmp") / f"trimtab-test-{os.getpid()}"
    hidden.mkdir(mode=0o700)
    assert embedded.home(make_settings(hidden)).parent == embedded.ROOT_HOME
    open_.mkdir(mode=0o755)
    try:
        assert embedded.home(make_settings(open_)) == open_ / "state" / "postgres"
    finally:
        open_.rmdir()


@AS_ROOT
def test_an_ordinary_user_can_run_it_too() -> None:
    """As `nobody`, with a home and a project of its own and nothing in root's folders."""
    who = pwd.getpwnam("nobody")
    home = Path("/var/tmp") / f"trimtab-test-home-{os.getpid()}"
    home.mkdir(mode=0o700)
    os.chown(home, who.pw_uid, who.pw_gid)
    code = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from deployments import stack
        from tests.deployments.stack.conftest import make_settings
        settings = make_settings(Path(sys.argv[1]))
        try:
            print(stack.up(settings, echo=print, only=["postgres"])["postgres"].state)
        finally:
            stack.erase(settings, echo=print)
        """
    )
    packages = os.pathsep.join([str(CODE), str(Path(sa.__file__).parents[1])])
    try:
        done = subprocess.run(
            [python_for_all(), "-B", "-c", code, str(home)],
            env={"HOME": str(home), "PATH": os.environ["PATH"], "PYTHONPATH": packages},
            cwd=home,
            user=who.pw_uid,
            group=who.pw_gid,
            extra_groups=[],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "running" in done.stdout
        assert (home / ".cache" / "trimtab").is_dir()
    finally:
        subprocess.run(["rm", "-rf", str(home)], check=True)
