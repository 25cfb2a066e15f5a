"""Processes that die: one attempt ends, the others go on."""

from __future__ import annotations

import signal

import pytest

from agentflow.workload import Outcome
from executors.conformance.harness import Harness, WithHarness


class Crashes(WithHarness):
    """Lost or failed (SEMANTICS 1)."""

    @pytest.mark.parametrize(
        ("body", "outcome", "exit_code", "signal_number"),
        [
            ("import os\nos._exit(7)", Outcome.FAILED, 7, None),
            ("import os\nos._exit(0)", Outcome.FAILED, 0, None),
            ("import sys\nsys.exit(5)", Outcome.FAILED, 5, None),
            ("import ctypes\nctypes.string_at(0)", Outcome.FAILED, None, signal.SIGSEGV),
            ("import os\nos.abort()", Outcome.FAILED, None, signal.SIGABRT),
            ("import os\nos.kill(os.getpid(), 9)", Outcome.LOST, None, None),
        ],
        ids=["_exit", "_exit 0", "sys.exit", "segfault", "abort", "kill -9"],
    )
    def test_a_crash_ends_its_attempt_only(
        self, harness: Harness, body: str, outcome: Outcome, exit_code: int | None, signal_number: int | None
    ) -> None:
        others = [harness.python("import time\ntime.sleep(0.2)\nreturn 1") for _ in range(3)]
        crash = harness.python(f"print('last words')\n{body}")
        harness.submit(*others, crash)
        result, *rest = harness.wait_finished([crash, *others])
        assert result.finished.outcome is outcome
        assert result.finished.error is not None
        assert result.finished.error.exit_code == exit_code
        assert result.finished.error.signal == signal_number
        assert "last words" in result.text
        assert [other.output for other in rest] == [1, 1, 1]

    def test_what_c_code_wrote_before_the_crash_is_in_the_log(self, harness: Harness) -> None:
        result = harness.run(harness.python("import os\nos.write(2, b'assertion failed in C')\nos.abort()"))
        assert "assertion failed in C" in result.text

    def test_work_goes_on_after_many_crashes(self, harness: Harness) -> None:
        crashes = [harness.python("import os\nos._exit(1)") for _ in range(20)]
        harness.submit(*crashes)
        assert all(result.finished.outcome is Outcome.FAILED for result in harness.wait_finished(crashes))
        assert harness.run(harness.workload("noop", {"output": 1})).output == 1

    def test_a_node_that_closes_every_file_descriptor_fails_alone(self, harness: Harness) -> None:
        result = harness.run(harness.python("import os\nos.closerange(3, 200)\nreturn 1"))
        assert result.finished.outcome in (Outcome.FAILED, Outcome.LOST)
        assert harness.run(harness.workload()).finished.outcome is Outcome.SUCCESS

    @pytest.mark.parametrize(
        "body",
        [
            "import os\nos.chdir('/')",
            "import os\nos.environ['LEFT'] = 'behind'",
            "import os\nos.umask(0)",
            "import signal\nsignal.signal(signal.SIGALRM, lambda *_: None)",
            "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()",
            "import sys\nsys.stdout = None",
            "import logging\nlogging.getLogger().handlers.clear()",
            "open('left-behind', 'w').close()",
        ],
    )
    def test_an_attempt_leaves_nothing_to_the_next_one(self, harness: Harness, body: str) -> None:
        look = """
import logging, os, signal, threading
print("printed")
logging.info("logged")
umask = os.umask(0)
return [os.listdir("."), "LEFT" in os.environ, umask == 0, signal.getsignal(signal.SIGALRM) == signal.SIG_DFL,
        any(t.name.startswith("Thread") for t in threading.enumerate())]
"""
        for _ in range(3):
            harness.run(harness.python(body))
            result = harness.run(harness.python(look))
            assert result.output == [[], False, False, True, False]
            assert result.text == "printed\nlogged"
