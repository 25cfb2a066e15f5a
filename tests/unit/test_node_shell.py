from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from agentflow.nodes import process
from agentflow.nodes.base import NodeContext, NodeFailed, NodeSkipped
from agentflow.nodes.shell import ShellConfig, ShellNode, environment, write_files


class Log:
    """Collects lines; `wait_for` blocks until one has arrived."""

    def __init__(self):
        self.lines = []
        self._changed = threading.Condition()

    def __call__(self, text, *, level="info", stream="system"):
        with self._changed:
            self.lines += [(stream, line) for line in text.removesuffix("\n").split("\n")]
            self._changed.notify_all()

    def wait_for(self, line):
        with self._changed:
            return self._changed.wait_for(lambda: line in self.lines, timeout=20)


@pytest.fixture
def log():
    return Log()


@pytest.fixture
def shell(tmp_path, log):
    """Run a command in a fresh working directory."""

    def run(command, *, output_max=1 << 20, **config):
        context = NodeContext(
            run_id="run-1", workflow="flow", node="step", attempt=2, work_dir=tmp_path, output_max=output_max, log=log
        )
        return ShellNode().run(ShellConfig.model_validate({"command": command, **config}), context)

    return run


def test_without_an_output_file_the_output_is_exit_code_and_stdout(shell):
    assert shell("echo one; echo two; echo three >&2") == {"exit_code": 0, "stdout": "one\ntwo\n"}


@pytest.mark.parametrize("text", ['{"a": [1, null]}', "5", "null", ' "x"\n'])
def test_json_in_the_output_file_becomes_the_output(shell, text):
    import json

    assert shell(f"echo noise; cat > $AGENTFLOW_OUTPUT <<'END'\n{text}\nEND") == json.loads(text)


def test_an_output_file_left_empty_counts_as_not_written(shell):
    assert shell("echo hi; : > $AGENTFLOW_OUTPUT") == {"exit_code": 0, "stdout": "hi\n"}


@pytest.mark.parametrize("text", [r"{not json}", r"\\377\\376\\375", "1 2"])
def test_an_output_file_that_is_not_json_fails_the_node(shell, text):
    with pytest.raises(NodeFailed, match=r"\$AGENTFLOW_OUTPUT is not JSON") as caught:
        shell(f"printf '%b' '{text}' > $AGENTFLOW_OUTPUT")
    assert caught.value.kind == "OutputNotJson"


def test_an_output_file_over_the_limit_is_not_read(shell):
    with pytest.raises(NodeFailed, match=r"holds 2,048 bytes, more than the 1,024 allowed"):
        shell("head -c 2048 /dev/zero > $AGENTFLOW_OUTPUT", output_max=1024)


def test_stdout_and_stderr_reach_the_log_line_by_line_with_their_stream(shell, log):
    shell(r"printf 'a\n\nb\r\nlast'; echo oops >&2")
    assert [line for stream, line in log.lines if stream == "stdout"] == ["a", "", "b\r", "last"]
    assert [line for stream, line in log.lines if stream == "stderr"] == ["oops"]


def test_lines_arrive_while_the_command_runs(shell, log, tmp_path):
    os.mkfifo(tmp_path / "gate")
    seen = []

    def open_the_gate():
        seen.append(log.wait_for(("stdout", "started")))
        (tmp_path / "gate").write_text("go\n")

    helper = threading.Thread(target=open_the_gate)
    helper.start()
    output = shell("echo started; cat gate")
    helper.join()
    assert seen == [True]
    assert output["stdout"] == "started\ngo\n"


def test_stdout_is_cut_to_its_last_64_kib_at_a_whole_character(shell):
    text = shell("for i in $(seq 40000); do echo -n 'é€'; done; echo END")["stdout"]
    assert text.endswith("é€END\n")
    assert process.TAIL - 4 < len(text.encode()) <= process.TAIL
    assert "\ufffd" not in text


def test_broken_utf8_and_nul_become_replacement_characters(shell, log):
    assert shell(r"printf 'a\000b\377c\n'")["stdout"] == "a\ufffdb\ufffdc\n"
    assert ("stdout", "a\ufffdb\ufffdc") in log.lines


def test_an_endless_line_is_logged_in_pieces_without_tearing_words(shell, log, monkeypatch):
    monkeypatch.setattr(process, "_LINE", 4096)
    monkeypatch.setattr(process, "_READ", 1024)
    shell("for i in $(seq 3000); do printf ' word%s' $i; done")
    pieces = [line for _, line in log.lines]
    assert len(pieces) > 3
    assert "".join(pieces) == "".join(f" word{number}" for number in range(1, 3001))
    assert all(piece.startswith(" word") for piece in pieces)


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("echo first >&2; echo the reason >&2; echo >&2; exit 3", 3, "exited with code 3: the reason"),
        ("false; echo unreachable", 1, "exited with code 1"),
        ("false | true; echo unreachable", 1, "exited with code 1"),
        ("echo $NOT_SET_ANYWHERE", 1, "NOT_SET_ANYWHERE: unbound variable"),
        ("no-such-command-anywhere", 127, "command not found"),
        ("yes | head -n 1", 141, "a command in a pipe ended before it had read everything"),
        ("bash -c 'kill -9 $$'", 137, "exited with code 137"),
        ("if then", 2, "syntax error"),
    ],
)
def test_a_non_zero_exit_fails_with_code_and_last_line_on_stderr(shell, command, code, message):
    with pytest.raises(NodeFailed) as caught:
        shell(command)
    assert (caught.value.kind, caught.value.exit_code) == ("ExitCode", code)
    assert message in str(caught.value)


def test_death_by_a_signal_is_told_as_such(shell):
    with pytest.raises(NodeFailed, match="killed by signal 15") as caught:
        shell("kill -TERM $$")
    assert (caught.value.kind, caught.value.signal, caught.value.exit_code) == ("Signal", signal.SIGTERM, None)


@pytest.mark.parametrize(
    ("code", "config", "expected"),
    [
        (99, {}, NodeSkipped),
        (99, {"skip_exit_code": 7}, NodeFailed),
        (7, {"skip_exit_code": 7}, NodeSkipped),
        (99, {"skip_exit_code": None}, NodeFailed),
    ],
)
def test_the_skip_exit_code_skips_the_node(shell, code, config, expected):
    with pytest.raises(expected):
        shell(f"exit {code}", **config)


def test_the_command_is_a_private_file_and_no_argument(shell):
    output = shell(
        "secret=in-the-script; tr '\\0' ' ' < /proc/$$/cmdline; stat -c %a \"$0\""
        if Path("/proc").is_dir()
        else 'ps -o command= -p $$; stat -f %Lp "$0"'
    )["stdout"]
    assert "in-the-script" not in output
    assert output.rstrip().endswith("600")


def test_nothing_of_ours_is_left_in_the_working_directory(shell, tmp_path):
    assert shell("ls -A | grep -v '^.agentflow-' || true")["stdout"] == ""
    assert list(tmp_path.iterdir()) == []


def test_the_command_has_no_input(shell):
    assert shell("cat; echo done")["stdout"] == "done\n"


def test_the_command_stays_in_the_process_group_of_the_runner(shell):
    assert int(shell("ps -o pgid= -p $$")["stdout"]) == os.getpgrp()


def test_only_listed_variables_of_the_runner_are_inherited():
    inherited = {"PATH": "/bin", "LC_ALL": "C", "TZ": "UTC", "AGENTFLOW_SECRET_KEY": "s", "AWS_SECRET": "s", "X": "1"}
    context = NodeContext(
        run_id="r", request_id="q", workflow="w", node="n", map_index=3, attempt=2, work_dir=Path("/w")
    )
    assert environment(inherited, {"MINE": "5", "TZ": "Asia/Tokyo"}, context, Path("/w/o.json")) == {
        "PATH": "/bin",
        "LC_ALL": "C",
        "TZ": "Asia/Tokyo",
        "MINE": "5",
        "AGENTFLOW_RUN_ID": "r",
        "AGENTFLOW_WORKFLOW": "w",
        "AGENTFLOW_NODE": "n",
        "AGENTFLOW_MAP_INDEX": "3",
        "AGENTFLOW_ATTEMPT": "2",
        "AGENTFLOW_REQUEST_ID": "q",
        "AGENTFLOW_WORK_DIR": "/w",
        "AGENTFLOW_OUTPUT": "/w/o.json",
    }


def test_settings_of_the_runner_do_not_reach_the_command(shell, monkeypatch):
    monkeypatch.setenv("AGENTFLOW_DATABASE_URL", "postgresql://secret")
    monkeypatch.setenv("SOME_TOKEN", "secret")
    output = shell("env", env={"GREETING": "hallo", "N": 5, "DOC": {"a": 1}})["stdout"].splitlines()
    assert not [line for line in output if "secret" in line]
    assert {"GREETING=hallo", "N=5", 'DOC={"a": 1}', "AGENTFLOW_NODE=step", "AGENTFLOW_ATTEMPT=2"} <= set(output)


def test_files_are_written_first_and_only_for_their_owner(shell):
    output = shell(
        "cat data/a.txt b.json; stat -c %a data/a.txt b.json 2>/dev/null || stat -f %Lp data/a.txt b.json",
        files={"data/a.txt": "ä\r\n", "b.json": [1]},
    )["stdout"]
    assert output == "ä\r\n[1]600\n600\n"


def test_a_file_may_not_be_written_through_a_link_out_of_the_working_directory(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    (inside / "link").symlink_to(outside)
    (inside / "direct").symlink_to(outside / "x")
    for name in ("link/x", "direct"):
        with pytest.raises(NodeFailed, match="leads out of the working directory"):
            write_files(inside, {name: "x"})
    assert list(outside.iterdir()) == []


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(NodeFailed, match="'a' cannot be written: Is a directory"):
        write_files(tmp_path, {"a/b": "", "a": ""})


def test_cwd_is_relative_to_the_working_directory(shell, tmp_path):
    assert shell("pwd -P", cwd="sub", files={"sub/x": ""})["stdout"].strip() == str(tmp_path.resolve() / "sub")
    assert shell("pwd -P", cwd="/")["stdout"] == "/\n"


def test_a_missing_cwd_is_named(shell):
    with pytest.raises(NodeFailed, match=r"cwd: there is no folder .*nowhere"):
        shell("pwd", cwd="nowhere")


def test_a_value_that_is_too_large_for_the_environment_is_told_with_advice(shell):
    with pytest.raises(NodeFailed, match="give large values by `files`"):
        shell("true", env={"BIG": "x" * (8 << 20)})


def test_a_missing_bash_is_told(shell, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(NodeFailed, match="bash is not on PATH"):
        shell("true")


def test_a_background_process_that_holds_the_pipes_does_not_hold_the_node(shell, tmp_path):
    output = shell("sleep 600 & echo $! > pid; echo done")
    try:
        assert output["stdout"] == "done\n"
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_the_process_is_killed_when_the_node_is_interrupted(tmp_path):
    # Given a log that raises in the middle, as the runner's signal handler does
    def interrupt(text, **_):
        raise KeyboardInterrupt

    context = NodeContext(work_dir=tmp_path, log=interrupt)
    config = ShellConfig(command="echo $$ > pid; echo go; exec sleep 600")
    with pytest.raises(KeyboardInterrupt):
        ShellNode().run(config, context)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_flood_of_lines_is_passed_on_in_blocks(tmp_path):
    calls = []
    context = NodeContext(work_dir=tmp_path, log=lambda text, **_: calls.append(text.count("\n")))
    ShellNode().run(ShellConfig(command="yes | head -c 20000000 || true"), context)
    assert sum(calls) == 10_000_000
    assert len(calls) < 50_000


def test_importing_the_type_does_not_import_httpx():
    code = (
        "import sys; from agentflow.nodes.registry import get; get('shell'); get('http'); print('httpx' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
