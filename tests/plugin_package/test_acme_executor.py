"""The package's own test: the executor passes the suite that AgentFlow ships."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("executors.conformance")

from acme_executor import QueueExecutor  # noqa: E402 - after the rewrite is registered

from executors.conformance import ExecutorConformance  # noqa: E402


class TestQueueExecutor(ExecutorConformance):
    @classmethod
    def make_executor(cls, context):
        return QueueExecutor(context)
