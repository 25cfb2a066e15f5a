"""The embedded server's life cycle: shared, found again, recovered; with real processes and real kills."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from agentflow.errors import DatabaseNotReady, SettingsError
from agentflow.locks import FileLock
from agentflow.postgres import EmbeddedPostgres, binaries, embedded, libpq_url
from agentflow.postgres.binaries import MAJORS
from agentflow.postgres.config import UNSAFE_FAST

AS_ROOT = os.geteuid() == 0
ROOT = Path(__file__).parents[2]

#: Attaches, says so, detaches when its stdin ends.
USER_SCRIPT = """
import sys
from pathlib import Path
from agentflow.postgres import EmbeddedPostgres
from agentflow.postgres.config import UNSAFE_FAST
server = EmbeddedPostgres(Path(sys.argv[1]), settings=UNSAFE_FAST)
server.attach()
print(server.url, flush=True)
sys.stdin.read()
server.detach()
"""


@pytest.fixture
def home(open_home: Path) -> Iterator[Path]:
    """A fresh home; what a failed test left running there is ended."""
    yield open_home
    pid = postmaster(open_home)
    if pid is not None:
        psutil.Process(pid).kill()
        until(lambda: not alive(open_home))


@pytest.fixture
def server(home: Path) -> Iterator[EmbeddedPostgres]:
    """An attached server."""
    server = manager(home)
    server.attach()
    yield server
    server.detach()


def manager(home: Path, major: int = 18) -> EmbeddedPostgres:
    return EmbeddedPostgres(home, major=major, settings=UNSAFE_FAST)


def user_process(home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", USER_SCRIPT, str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def query(url: str, statement: str) -> object:
    with psycopg.connect(libpq_url(url), autocommit=True) as connection:
        cursor = connection.execute(statement)
        row = cursor.fetchone() if cursor.description else None
    return row[0] if row else None


def postmaster(home: Path) -> int | None:
    """Process id of a living server of this home, as its own file says."""
    file = home / "postgres/data/postmaster.pid"
    if not alive(home) or not file.exists():
        return None
    return int(file.read_text().splitlines()[0])


def alive(home: Path) -> bool:
    if not home.exists():
        return False
    lock = FileLock(home / "postgres.alive")
    free = lock.try_acquire("shared")
    lock.release()
    return not free


def until(condition: Callable[[], bool], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)


def kill_postmaster(home: Path) -> int:
    pid = postmaster(home)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    return pid


@pytest.mark.parametrize("major", MAJORS)
def test_first_start_makes_a_private_server_and_the_last_user_stops_it(home: Path, major: int) -> None:
    server = manager(home, major)
    server.attach()
    try:
        assert int(str(query(server.url, "SHOW server_version_num"))) // 10_000 == major
        assert query(server.url, "SHOW listen_addresses") == "127.0.0.1"
        assert query(server.url, "SHOW data_checksums") == "on"
        assert query(server.url, "SHOW server_encoding") == "UTF8"
        assert (home / "postgres.password").stat().st_mode & 0o777 == 0o600
        assert home.stat().st_mode & 0o777 == (0o755 if AS_ROOT else 0o700)
        owner = (home / "postgres/data").stat().st_uid
        assert (owner != 0) if AS_ROOT else (owner == os.getuid())
    finally:
        server.detach()
    assert not alive(home)
    server.detach()  # twice does no harm


def test_without_the_password_nobody_gets_in(server: EmbeddedPostgres) -> None:
    secret = (server.home / "postgres.password").read_text()
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        query(server.url.replace(secret, "guess"), "SELECT 1")


def test_commits_are_durable_by_default(home: Path) -> None:
    server = EmbeddedPostgres(home)
    server.attach()
    try:
        assert [query(server.url, f"SHOW {name}") for name in ("fsync", "synchronous_commit", "full_page_writes")] == [
            "on"
        ] * 3
        assert query(server.url, "SHOW jit") == "off"
    finally:
        server.detach()


def test_processes_that_start_at_once_share_one_server(home: Path) -> None:
    users = [user_process(home) for _ in range(4)]
    urls = {user.stdout.readline().strip() for user in users}
    pid = postmaster(home)
    assert len(urls) == 1
    assert query(urls.pop(), "SELECT 1") == 1
    for user in users[:-1]:
        user.communicate(timeout=30)
    assert postmaster(home) == pid  # one user is left
    users[-1].communicate(timeout=30)
    assert [user.returncode for user in users] == [0] * 4
    assert not alive(home)


CHURN_SCRIPT = """
import sys
from pathlib import Path
import psycopg
from agentflow.postgres import EmbeddedPostgres, libpq_url
from agentflow.postgres.config import UNSAFE_FAST
for _ in range(6):
    server = EmbeddedPostgres(Path(sys.argv[1]), settings=UNSAFE_FAST)
    server.attach()
    with psycopg.connect(libpq_url(server.url)) as connection:
        connection.execute("SELECT pg_sleep(0.01)")
    server.detach()
"""


def test_commands_that_come_and_go_never_meet_a_stopping_server(home: Path) -> None:
    users = [subprocess.Popen([sys.executable, "-c", CHURN_SCRIPT, str(home)], cwd=ROOT) for _ in range(3)]
    assert [user.wait(90) for user in users] == [0] * 3
    assert not alive(home)


def test_a_killed_server_comes_back_at_the_same_address_with_its_data(server: EmbeddedPostgres) -> None:
    url = server.url
    query(url, "CREATE TABLE kept AS SELECT 42 AS n")
    killed = kill_postmaster(server.home)
    assert server.ensure_running() == url
    assert query(url, "SELECT n FROM kept") == 42
    assert postmaster(server.home) != killed


def test_a_killed_user_leaves_the_server_to_the_next_one(home: Path) -> None:
    user = user_process(home)
    user.stdout.readline()
    pid = postmaster(home)
    user.kill()
    user.communicate()
    assert postmaster(home) == pid
    later = manager(home)
    later.attach()
    assert postmaster(home) == pid
    later.detach()
    assert not alive(home)


def test_user_and_server_killed_together_are_recovered(home: Path) -> None:
    user = user_process(home)
    url = user.stdout.readline().strip()
    query(url, "CREATE TABLE kept AS SELECT 42 AS n")
    user.kill()
    kill_postmaster(home)
    user.communicate()
    later = manager(home)
    later.attach()
    assert query(later.url, "SELECT n FROM kept") == 42
    later.detach()


def test_a_stale_pid_file_that_names_a_living_stranger_does_not_stop_the_start(home: Path) -> None:
    server = manager(home)
    server.attach()
    owner = (home / "postgres/data").stat()
    pid_file = home / "postgres/data/postmaster.pid"
    lines = pid_file.read_text().splitlines()
    server.detach()
    identity = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []} if AS_ROOT else {}
    with subprocess.Popen(["/bin/sleep", "60"], cwd="/", **identity) as stranger:
        pid_file.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
        os.chown(pid_file, owner.st_uid, owner.st_gid)
        try:
            server.attach()
            assert query(server.url, "SELECT 1") == 1
            server.detach()
            assert stranger.poll() is None  # and is not taken for the server
        finally:
            stranger.kill()


def test_a_taken_port_is_chosen_again(home: Path) -> None:
    server = manager(home)
    server.attach()
    port = int((home / "postgres.port").read_text())
    server.detach()
    with socket.socket() as rival:
        rival.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        rival.bind(("127.0.0.1", port))
        rival.listen()
        server.attach()
        assert int((home / "postgres.port").read_text()) != port
        assert query(server.url, "SELECT 1") == 1
        server.detach()


def test_a_copied_home_gets_a_server_of_its_own(home: Path) -> None:
    original, copy_home = manager(home), home.with_name("copy")
    original.attach()
    original.detach()
    subprocess.run(["cp", "-a", str(home), str(copy_home)], check=True)
    original.attach()
    copied = manager(copy_home)
    copied.attach()
    try:
        assert copied.url != original.url
        assert query(copied.url, "SHOW data_directory") == str(copy_home / "postgres/data")
    finally:
        copied.detach()
        original.detach()


def test_an_initdb_that_was_killed_is_done_again(home: Path) -> None:
    (home / "postgres/data.partial/base").mkdir(parents=True)
    home.chmod(0o755)
    server = manager(home)
    server.attach()
    assert query(server.url, "SELECT 1") == 1
    server.detach()


def test_stopping_does_not_wait_for_connected_clients(home: Path) -> None:
    server = manager(home)
    server.attach()
    connection = psycopg.connect(libpq_url(server.url))
    connection.execute("SELECT 1")
    began = time.monotonic()
    server.detach()
    assert time.monotonic() - began < 5
    assert not alive(home)
    connection.close()


def test_data_of_another_major_version_is_refused_with_the_way_out(home: Path) -> None:
    old = manager(home, 16)
    old.attach()
    old.detach()
    with pytest.raises(DatabaseNotReady, match=r"made by Postgres 16.*runs Postgres 18") as caught:
        manager(home, 18).attach()
    assert "pg_dump" in str(caught.value.hint)
    assert "AGENTFLOW_EMBEDDED_POSTGRES_MAJOR=16" in str(caught.value.hint)
    old.attach()  # and nothing was touched
    old.detach()


def test_the_way_from_one_major_version_to_the_next_works_as_told(home: Path, tmp_path: Path) -> None:
    def client(*command: str, major: int) -> str:
        environment = os.environ | {
            "AGENTFLOW_DATABASE_URL": "",
            "AGENTFLOW_HOME": str(home),
            "AGENTFLOW_EMBEDDED_POSTGRES_MAJOR": str(major),
        }
        whole = [sys.executable, "-m", "agentflow.postgres", *command]
        return subprocess.run(whole, env=environment, check=True, capture_output=True, text=True, cwd=ROOT).stdout

    dump = str(tmp_path / "agentflow.dump")
    client("psql", "-c", "CREATE TABLE kept AS SELECT 42 AS n", major=16)
    client("pg_dump", "-Fc", "-f", dump, major=16)
    for name in ("postgres", "postgres.password"):
        (home / name).rename(home / f"old-{name}")
    client("pg_restore", "-d", "agentflow", dump, major=18)
    assert client("psql", "-At", "-c", "SELECT n FROM kept", major=18) == "42\n"
    assert not alive(home)


def test_a_lost_password_file_is_named(home: Path) -> None:
    server = manager(home)
    server.attach()
    server.detach()
    (home / "postgres.password").unlink()
    with pytest.raises(DatabaseNotReady, match=r"postgres\.password is gone"):
        manager(home).attach()


def test_a_changed_password_file_is_named_at_once(home: Path) -> None:
    server = manager(home)
    server.attach()
    server.detach()
    (home / "postgres.password").write_text("another")
    began = time.monotonic()
    with pytest.raises(DatabaseNotReady, match="refuses the password"):
        manager(home).attach()
    assert time.monotonic() - began < 20
    assert not alive(home)  # the failed user was the last one


def test_a_server_that_cannot_start_says_what_its_log_says(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "START_TRIES", 1)
    broken = EmbeddedPostgres(home, settings={"shared_buffers": "many"})
    with pytest.raises(embedded.DatabaseUnreachable) as caught:
        broken.attach()
    assert "shared_buffers" in str(caught.value.hint)


def test_a_version_the_wheel_does_not_carry_is_a_settings_error(home: Path) -> None:
    with pytest.raises(SettingsError, match="16 and 18, not 17"):
        manager(home, 17).attach()


def test_a_home_that_cannot_be_made_is_a_settings_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"cannot be made|not a folder"):
        manager(tmp_path / "file").attach()


def test_a_forked_child_does_not_take_its_parents_place(server: EmbeddedPostgres) -> None:
    child = os.fork()
    if child == 0:
        try:
            server.detach()  # as its finalisers might
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    rival = manager(server.home)
    rival.attach()
    rival.detach()
    assert query(server.url, "SELECT 1") == 1  # rival was not the last one


@pytest.mark.skipif(not AS_ROOT, reason="only root runs Postgres as somebody else")
def test_root_gets_told_when_the_unprivileged_user_cannot_enter_the_home(open_home: Path) -> None:
    closed = open_home.parent / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(SettingsError, match="cannot enter") as caught:
        manager(closed / "home").attach()
    assert "/var/lib/agentflow" in str(caught.value.hint)
    assert closed.stat().st_mode & 0o777 == 0o700  # nobody's folder was opened


@pytest.mark.skipif(not AS_ROOT, reason="only root runs Postgres as somebody else")
def test_programs_in_a_closed_folder_are_copied_into_the_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = home.with_name("venv")
    closed.mkdir(mode=0o700)
    wheel = binaries.find_binaries(18)
    package = wheel.folder.parent
    for part in (wheel.folder, package.with_name(f"{package.name}.libs")):
        if part.is_dir():
            shutil.copytree(part, closed / part.relative_to(package.parent), symlinks=True)
    moved = binaries.Binaries(closed / package.name / wheel.folder.name, 18)
    monkeypatch.setattr(embedded, "find_binaries", lambda _major: moved)
    server = manager(home)
    server.attach()
    try:
        process = psutil.Process(postmaster(home))
        assert Path(process.exe()).is_relative_to(next(home.glob("pgsql-18.*")))
        assert process.uids().effective != 0
    finally:
        server.detach()
    assert closed.stat().st_mode & 0o777 == 0o700


def test_a_user_without_a_name_is_told_before_anything_is_made(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_who: object) -> None:
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(pwd, "getpwnam", unknown)
    with pytest.raises(SettingsError, match="no user"):
        manager(home).attach()
    assert not (home / "postgres").exists()


@pytest.mark.skipif(not AS_ROOT, reason="the other tests run as a normal user already")
def test_a_normal_user_runs_it_as_himself(open_home: Path) -> None:
    uid = pwd.getpwnam("nobody").pw_uid
    server = manager(open_home)
    os.chown(open_home.parent, uid, uid)
    child = os.fork()
    if child == 0:  # a fork, since the interpreter may lie in a folder closed to that user
        code = 1
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            if not os.access(binaries.find_binaries(18).program("postgres"), os.X_OK):
                os._exit(77)
            server.attach()
            owner = (open_home / "postgres/data").stat().st_uid
            code = 0 if (owner, query(server.url, "SELECT 1")) == (uid, 1) else 2
            server.detach()
        except BaseException:  # noqa: BLE001 - a forked child must never return into pytest
            traceback.print_exc()
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == 77:
        pytest.skip("the virtual environment lies in a folder closed to other users")
    assert code == 0
    assert not alive(open_home)
