"""The subprocess executor: the machinery of `executors.processes`, told to make a limited process for each attempt."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from agentflow.errors import SettingsError
from agentflow.workload import ExecutorEvent, Workload
from executors.base import ExecutorContext
from executors.processes import ProcessExecutor, ProcessPolicy
from executors.subprocess.options import Options


class SubprocessExecutor(ProcessExecutor):
    """A fresh process for every attempt, forked from a zygote that starts with the first workload."""

    def __init__(self, context: ExecutorContext) -> None:
        """Read the options.

        Raises:
            SettingsError: One of them cannot be used.
        """
        self._options = Options.read(context.options)
        policy = ProcessPolicy(
            name="subprocess",
            one_attempt=True,
            lazy=True,
            environment=self._options.variables,
            confinement=self._options.confinement(context.parallelism),
        )
        super().__init__(context, policy)

    def start(self, emit: Callable[[ExecutorEvent], None]) -> None:
        """Start the thread; another user must be able to reach its folders, Python and the bundles.

        Raises:
            SettingsError: It cannot.
        """
        super().start(emit)
        if self._options.run_as is not None:
            work_dir, bundles_dir = self._context.work_dir, self._context.bundles_dir
            work_dir.chmod(0o711)
            bundles_dir.mkdir(parents=True, exist_ok=True)
            self._check_reach(work_dir, bundles_dir, Path(sys.prefix), Path(sys.base_prefix), Path(__file__).parent)

    def submit(self, workloads: Sequence[Workload]) -> None:
        """Take these workloads, in this order; those that name no memory get the executor's limit."""
        super().submit([self._limited(workload) for workload in workloads] if self._options.memory else workloads)

    def _limited(self, workload: Workload) -> Workload:
        if workload.limits.memory is not None:
            return workload
        limits = workload.limits.model_copy(update={"memory": self._options.memory})
        return workload.model_copy(update={"limits": limits})

    def _check_reach(self, *folders: Path) -> None:
        run_as = self._options.run_as
        assert run_as is not None
        for folder in folders:
            if not run_as.account.can_enter(folder):
                self.stop(0)
                raise SettingsError(
                    f"AGENTFLOW_SUBPROCESS_USER: {run_as.name!r} cannot enter {folder}",
                    hint="open it and the folders above it to that user (chmod o+x), or install AgentFlow elsewhere",
                )
