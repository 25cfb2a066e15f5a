"""An executor for machines that must do one thing at a time, with a journal that says what and when.

Settings: AGENTFLOW_ACME_QUEUE_JOURNAL is the file of the journal (none: no journal).
"""

from acme_executor.executor import QueueExecutor

__all__ = ["QueueExecutor"]
