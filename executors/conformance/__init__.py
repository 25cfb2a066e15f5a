"""The tests that every executor must pass, ours and other people's.

    # tests/test_my_executor.py
    import pytest
    pytest.register_assert_rewrite("executors.conformance")
    from executors.conformance import ExecutorConformance

    class TestMyExecutor(ExecutorConformance):
        @classmethod
        def make_executor(cls, context):
            return MyExecutor(context)

Class attributes switch off what an executor cannot have; each needs a reason in your documentation. The node types
`noop`, `python`, `shell`, `http` and `wait` must be installed where attempts run. Needs pytest.
"""

from __future__ import annotations

from executors.conformance.crashes import Crashes
from executors.conformance.deferring import Deferring
from executors.conformance.harness import Harness, Result
from executors.conformance.limits import LimitsAndFloods
from executors.conformance.network import NetworkNodes
from executors.conformance.results import Results
from executors.conformance.secrecy import Secrecy
from executors.conformance.stopping import Stopping

__all__ = ["ExecutorConformance", "Harness", "Result"]


class ExecutorConformance(Results, Stopping, Crashes, LimitsAndFloods, Secrecy, NetworkNodes, Deferring):
    """All of it; subclass, and give `make_executor`."""
