"""What the subprocess executor promises beyond the conformance suite: its own process, folder, environment, limits."""

from __future__ import annotations

import os
import pwd
import shutil
import sys
import tempfile
import threading
from pathlib import Path

import psutil
import pytest

pytest.register_assert_rewrite("executors.conformance")

from agentflow.errors import SettingsError  # noqa: E402 - after the rewrite is registered
from agentflow.workload import Outcome  # noqa: E402
from executors.conformance.harness import Harness, wait_dead  # noqa: E402
from executors.processes import engine  # noqa: E402
from executors.subprocess import SubprocessExecutor  # noqa: E402

MIB = 2**20
USER = "daemon"  # there on every Linux

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run nodes as another user")
needs_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")


@pytest.fixture
def make(tmp_path):
    harnesses = []

    def make(folder=tmp_path, **options):
        harnesses.append(Harness(SubprocessExecutor, folder, parallelism=2, options=options))
        return harnesses[-1]

    yield make
    for harness in harnesses:
        harness.executor.stop(0)


@pytest.fixture
def open_folder(monkeypatch):
    """A folder that every user may enter (pytest's are closed); the Python of these tests may lie in root's home.

    To be asked for before `make`, so that the executors are stopped before it is removed.
    """
    monkeypatch.setattr(sys, "base_prefix", "/")
    folder = Path(tempfile.mkdtemp(prefix="agentflow-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def eventually(condition, timeout=10.0):
    """Wait until it holds; there is no event for what other processes do."""
    pause, left = threading.Event(), timeout / 0.02
    while not condition():
        left -= 1
        if left < 0:
            pytest.fail("it did not happen")
        pause.wait(0.02)


# -- the process -------------------------------------------------------------------------------------------------------
def test_no_process_exists_before_the_first_workload(make):
    before = set(psutil.Process().children(recursive=True))
    harness = make()
    assert harness.executor.slots_free == 2
    assert set(psutil.Process().children(recursive=True)) == before
    harness.run(harness.workload())
    assert set(psutil.Process().children(recursive=True)) > before


def test_after_a_while_without_work_no_process_is_left_and_work_brings_them_back(make, monkeypatch):
    monkeypatch.setattr(engine, "_IDLE_MAX", 0.2)
    before = set(psutil.Process().children(recursive=True))
    harness = make()
    harness.run(harness.workload())
    eventually(lambda: set(psutil.Process().children(recursive=True)) == before)
    assert harness.run(harness.workload("noop", {"output": 2})).output == 2


def test_every_attempt_has_a_process_and_a_session_of_its_own(make):
    harness = make()
    body = "import os\nreturn [os.getpid(), os.getsid(0)]"
    seen = [harness.run(harness.python(body)).output for _ in range(5)]
    assert len({pid for pid, _ in seen}) == 5
    assert all(pid == session for pid, session in seen)


def test_a_module_is_imported_anew_for_every_attempt(make):
    harness = make()
    bundle = harness.context.bundles_dir / "one"
    bundle.mkdir(parents=True)
    (bundle / "mine.py").write_text("loads = []\ndef count():\n    loads.append(1)\n    return len(loads)\n")
    workloads = [harness.workload("python", {"function": "mine:count"}, bundle="one") for _ in range(3)]
    assert [harness.run(workload).output for workload in workloads] == [1, 1, 1]


# -- its folder --------------------------------------------------------------------------------------------------------
def test_folder_and_temporary_files_are_private_and_gone_afterwards(make):
    harness = make()
    body = """
import os, tempfile
open("left.txt", "w").close()
handle, path = tempfile.mkstemp()
os.makedirs("locked/inside")
os.chmod("locked", 0)
return [os.getcwd(), path]
"""
    folders = [Path(path) for path in harness.run(harness.python(body)).output]
    assert all(path.is_relative_to(harness.context.work_dir) for path in folders)
    eventually(lambda: not any(path.exists() for path in folders))
    eventually(lambda: not folders[0].parent.exists())


def test_what_a_killed_attempt_left_in_its_folder_is_removed_too(make):
    harness = make()
    workload = harness.python(
        "import os, tempfile, time\ntempfile.mkstemp()\nprint('at', os.getcwd())\ntime.sleep(60)",
        limits={"timeout": 0.3},
    )
    result = harness.run(workload)
    folder = Path(result.text.split()[-1]).parent
    eventually(lambda: not folder.exists())


# -- its environment ---------------------------------------------------------------------------------------------------
def test_the_environment_is_an_allow_list_plus_what_the_setting_names(make, monkeypatch):
    for name in ("CLOUD_TOKEN", "HTTP_PROXY_OF_OURS", "AGENTFLOW_SECRET_KEY", "PGPASSWORD"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("LC_TIME", "C")
    harness = make(environment="HTTP_PROXY_OF_OURS, NOT_SET")
    seen = harness.run(harness.python("import os\nreturn dict(os.environ)")).output
    allowed = {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR"}
    assert set(seen) - allowed - {"SSL_CERT_FILE", "SSL_CERT_DIR"} - {n for n in seen if n.startswith("LC_")} == {
        "HTTP_PROXY_OF_OURS"
    }
    assert seen["LC_TIME"] == "C"
    assert seen["PATH"] == os.environ["PATH"]


def test_variables_of_agentflow_cannot_be_passed_on(make):
    with pytest.raises(SettingsError, match="AGENTFLOW_DATABASE_URL"):
        make(environment="TZ,AGENTFLOW_DATABASE_URL")


def test_a_python_that_cannot_start_without_a_missing_variable_is_said_not_waited_for(make, monkeypatch, capfd):
    harness = make()
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    result = harness.run(harness.workload())
    assert result.finished.outcome is Outcome.REFUSED
    assert "AGENTFLOW_SUBPROCESS_ENVIRONMENT" in result.finished.error.message


# -- its limits --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "body", "expected"),
    [
        ({"nice": 7}, "import os\nreturn os.nice(0)", os.nice(0) + 7),
        ({}, "import resource\nreturn resource.getrlimit(resource.RLIMIT_CORE)", [0, 0]),
        ({"max_open_files": 99}, "import resource\nreturn resource.getrlimit(resource.RLIMIT_NOFILE)", [99, 99]),
        ({"cpu_seconds": 50}, "import resource\nreturn resource.getrlimit(resource.RLIMIT_CPU)", [52, 57]),
        ({"max_file_size": MIB}, "import resource\nreturn resource.getrlimit(resource.RLIMIT_FSIZE)", [MIB, MIB]),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_the_kernel_holds_the_limits(make, options, body, expected):
    harness = make(**options)
    assert harness.run(harness.python(body)).output == expected


def test_a_file_over_the_limit_fails_the_node_that_writes_it(make):
    harness = make(max_file_size=MIB)
    error = harness.run(harness.python(f"open('big', 'wb').write(b'x' * {2 * MIB})")).finished.error
    assert error.type == "OSError"
    assert "File too large" in error.message


@needs_linux
@pytest.mark.parametrize(
    "body",
    ["while True: pass", "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'while True: pass'])"],
    ids=["itself", "a child"],
)
def test_processor_time_beyond_the_limit_ends_the_attempt(make, body):
    harness = make(cpu_seconds=1)
    error = harness.run(harness.python(body, limits={"timeout": 25})).finished.error
    assert error.type == "CpuTimeExceeded"
    assert "AGENTFLOW_SUBPROCESS_CPU_SECONDS" in error.message


@needs_linux
def test_a_fork_bomb_ends_with_all_that_left_its_group(make):
    harness = make(max_processes=20)
    command = "for i in $(seq 40); do setsid sleep 600 & echo pid $!; done; wait"
    result = harness.run(harness.shell(command))
    assert result.finished.outcome is Outcome.FAILED
    assert result.finished.error.type == "TooManyProcesses"
    pids = [int(line[4].split()[1]) for line in result.lines if line[4].startswith("pid ")]
    assert pids
    for pid in pids:
        wait_dead(pid)


@needs_linux
def test_threads_count_as_processes(make):
    harness = make(max_processes=20)
    body = "import threading\nstop = threading.Event()\nfor _ in range(30): threading.Thread(target=stop.wait).start()"
    error = harness.run(harness.python(body + "\nstop.wait(20)")).finished.error
    assert error.type == "TooManyProcesses"


def test_memory_is_limited_by_the_setting_unless_the_node_names_its_own(make):
    harness = make(memory=60 * MIB)
    body = "data = []\nfor _ in range(15): data.append(bytearray(b'x') * (10 * 2**20))"
    assert harness.run(harness.python(body)).finished.error.type == "OutOfMemory"
    assert harness.run(harness.python(body, limits={"memory": 400 * MIB})).finished.outcome is Outcome.SUCCESS


# -- another user ------------------------------------------------------------------------------------------------------
@needs_root
def test_attempts_run_as_the_user_with_its_groups_and_home_and_cannot_go_back(open_folder, make):
    harness = make(open_folder, user=USER)
    entry = pwd.getpwnam(USER)
    body = """
import os, tempfile
def root():
    try:
        os.setuid(0)
    except PermissionError:
        return "refused"
tempfile.mkstemp()
open("mine", "w").close()
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
return [os.getresuid(), os.getresgid(), os.getgroups(), os.environ["HOME"], os.environ["USER"], root(),
        status["CapEff"].strip(), status["NoNewPrivs"].strip(), os.access(scheduler, os.R_OK)]
"""
    private = open_folder / "of-the-scheduler"
    private.touch(mode=0o600)
    result = harness.run(harness.python(body, args={"scheduler": str(private)}))
    groups = sorted(os.getgrouplist(USER, entry.pw_gid))
    uids, gids, seen_groups, *rest = result.output
    assert (uids, gids, sorted(seen_groups)) == ([entry.pw_uid] * 3, [entry.pw_gid] * 3, groups)
    assert rest == [entry.pw_dir, USER, "refused", "0" * 16, "1", False]


@needs_root
def test_another_user_can_open_its_standard_streams_and_is_cancelled_like_us(open_folder, make):
    harness = make(open_folder, user=USER)
    workload = harness.shell("id -un > /dev/stdout; echo told > /dev/stderr; setsid sleep 600 & echo far $!; wait")
    harness.submit(workload)
    far = int(harness.wait_line(workload, "far").split()[-1])
    harness.executor.cancel([workload.attempt_id])
    result = harness.wait_finished([workload])[0]
    assert result.finished.outcome is Outcome.CANCELLED
    assert {USER, "told"} <= {line[4] for line in result.lines}
    wait_dead(far)


@needs_root
def test_the_number_of_processes_of_another_user_is_held_by_the_kernel(open_folder, make):
    harness = make(open_folder, user=USER, max_processes=50)
    body = "import resource\nreturn resource.getrlimit(resource.RLIMIT_NPROC)"
    assert harness.run(harness.python(body)).output == [100, 100]  # for two at once


@needs_root
def test_a_user_who_cannot_enter_the_folders_is_refused_at_the_start(open_folder, make):
    closed = open_folder / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(SettingsError, match="cannot enter"):
        make(closed, user=USER)
    assert not (closed / "work").exists()


@needs_root
def test_a_user_who_cannot_reach_python_is_refused_at_the_start(open_folder, make, monkeypatch):
    closed = open_folder / "python"
    closed.mkdir(mode=0o700)
    monkeypatch.setattr(sys, "base_prefix", str(closed))
    with pytest.raises(SettingsError, match=r"cannot enter .*python"):
        make(open_folder, user=USER)


@needs_root
@pytest.mark.parametrize(
    ("name", "words"),
    [("no-such-user-here", "no user"), ("root", "is root"), ("nobody", "embedded Postgres")],
)
def test_users_that_nodes_must_not_run_as(make, name, words):
    with pytest.raises(SettingsError, match=words) as error:
        make(user=name)
    assert error.value.hint
