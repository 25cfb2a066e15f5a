"""Success, failure, logs, numbers."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agentflow.workload import Outcome, Started
from executors.conformance.harness import Harness, WithHarness


class Results(WithHarness):
    """What attempts return."""

    def test_the_output_of_a_node_is_json(self, harness: Harness) -> None:
        result = harness.run(harness.workload("noop", {"output": {"a": [1, 2.5, None, True, "ü"]}}))
        assert result.finished.outcome is Outcome.SUCCESS
        assert result.output == {"a": [1, 2.5, None, True, "ü"]}
        assert isinstance(result.events[0], Started)
        assert result.finished.started_at == result.events[0].at
        assert result.finished.finished_at >= result.events[0].at

    def test_every_event_carries_the_token(self, harness: Harness) -> None:
        workload = harness.python("print('x')")
        result = harness.run(workload)
        assert {event.token for event in result.events} == {workload.token}

    def test_templates_are_rendered_where_the_node_runs(self, harness: Harness) -> None:
        workload = harness.workload(
            "noop", {"output": "{{ params.n }}"}, context={"params": {"n": 7}, "nodes": {}, "run": {}, "vars": {}}
        )
        assert harness.run(workload).output == 7

    def test_an_exception_fails_the_attempt_with_the_frames_of_user_code(self, harness: Harness) -> None:
        result = harness.run(harness.python("x = 1\nreturn x / 0"))
        error = result.finished.error
        assert result.finished.outcome is Outcome.FAILED
        assert error is not None
        assert error.type == "ZeroDivisionError"
        assert error.traceback is not None
        assert "line 3, in main" in error.traceback
        assert "agentflow" not in error.traceback

    @pytest.mark.parametrize(
        ("body", "place"),
        [
            ("return {'rows': [1, {'at': float('nan')}]}", "output.rows[1].at"),
            ("return {'a b': b'x'}", "output['a b']"),
            ("return {1: 2}", "key 1"),
            ("return [{3}]", "output[0]"),
            ("return 'a\\0b'", "u0000"),
            ("return object()", "output is of type object"),
            ("x = []; x.append(x); return x", "nested deeper"),
        ],
    )
    def test_an_output_that_is_not_json_is_a_failure_that_names_the_place(
        self, harness: Harness, body: str, place: str
    ) -> None:
        result = harness.run(harness.python(body))
        assert result.finished.outcome is Outcome.FAILED
        assert result.finished.error is not None
        assert place in result.finished.error.message

    def test_a_wrong_config_is_a_failure(self, harness: Harness) -> None:
        result = harness.run(harness.workload("noop", {"outptu": 1}))
        assert result.finished.outcome is Outcome.FAILED
        assert result.finished.error is not None
        assert "outptu" in result.finished.error.message

    def test_an_unknown_node_type_is_a_failure(self, harness: Harness) -> None:
        result = harness.run(harness.workload("no-such-type"))
        assert result.finished.outcome is Outcome.FAILED
        assert result.finished.error is not None
        assert "no-such-type" in result.finished.error.message

    def test_a_node_may_ask_to_be_skipped(self, harness: Harness) -> None:
        assert harness.run(harness.shell("exit 99")).finished.outcome is Outcome.SKIPPED

    def test_a_failing_command_reports_its_exit_code(self, harness: Harness) -> None:
        error = harness.run(harness.shell("exit 3")).finished.error
        assert error is not None
        assert error.exit_code == 3

    def test_everything_printed_is_in_the_log_with_its_stream(self, harness: Harness) -> None:
        body = """
import logging, os, subprocess, sys
print("from print")
print("to stderr", file=sys.stderr)
logging.getLogger("my").warning("from logging")
os.write(1, b"from the descriptor\\n")
subprocess.run(["sh", "-c", "echo from a child; echo child error >&2"])
sys.stdout.write("no line end")
"""
        rows = {row[4]: row for row in harness.run(harness.python(body)).lines}
        streams = {text: row[2] for text, row in rows.items()}
        assert streams["from print"] == streams["from the descriptor"] == streams["from a child"] == "stdout"
        assert streams["to stderr"] == streams["child error"] == "stderr"
        assert streams["no line end"] == "stdout"
        assert rows["my: from logging"][3] == "warning"
        assert all(abs(row[1] - time.time()) < 60 for row in rows.values())

    def test_binary_garbage_becomes_replacement_characters(self, harness: Harness) -> None:
        text = harness.run(harness.shell(r"printf 'a\000b\377c\n'; head -c 100000 /dev/urandom")).text
        assert "a\ufffdb\ufffdc" in text
        assert "\0" not in text

    def test_a_line_appears_while_the_node_still_runs(self, harness: Harness, tmp_path: Path) -> None:
        flag = tmp_path / "go"
        workload = harness.python(
            "import os, time\nprint('early')\nwhile not os.path.exists(flag):\n    time.sleep(0.01)",
            args={"flag": str(flag)},
        )
        harness.submit(workload)
        harness.wait_line(workload, "early")
        flag.touch()
        assert harness.wait_finished([workload])[0].finished.outcome is Outcome.SUCCESS

    def test_many_workloads_all_end_exactly_once(self, harness: Harness) -> None:
        workloads = [harness.workload("noop", {"output": number}) for number in range(500)]
        harness.submit(*workloads)
        results = harness.wait_finished(workloads)
        assert [result.output for result in results] == list(range(500))

    def test_never_more_at_once_than_the_parallelism(
        self, make_harness: Callable[..., Harness], tmp_path: Path
    ) -> None:
        harness = make_harness(parallelism=2)
        body = """
import os, time, uuid
mine = os.path.join(folder, uuid.uuid4().hex)
open(mine, "w").close()
time.sleep(0.05)
seen = len(os.listdir(folder))
os.unlink(mine)
return seen
"""
        folder = tmp_path / "marks"
        folder.mkdir()
        workloads = [harness.python(body, args={"folder": str(folder)}) for _ in range(12)]
        harness.submit(*workloads)
        assert max(result.output for result in harness.wait_finished(workloads)) == 2

    def test_slots_come_back(self, harness: Harness) -> None:
        assert harness.executor.slots_free >= 4
        workloads = [harness.workload() for _ in range(50)]
        harness.submit(*workloads)
        harness.wait_finished(workloads)
        assert harness.executor.slots_free >= 4

    def test_adoption_answers_for_every_attempt(self, harness: Harness) -> None:
        answer = harness.executor.adopt(["some/0/-1/1"])
        assert [*answer.adopted, *answer.lost] == ["some/0/-1/1"]
