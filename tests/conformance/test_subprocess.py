"""The subprocess executor passes the suite."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("executors.conformance")

from executors.conformance import ExecutorConformance  # noqa: E402 - after the rewrite is registered
from executors.subprocess import SubprocessExecutor  # noqa: E402


class TestSubprocessExecutor(ExecutorConformance):
    @classmethod
    def make_executor(cls, context):
        return SubprocessExecutor(context)
