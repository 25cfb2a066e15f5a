"""Reads workflow files: one that the user names, or a whole DAG folder.

Python files run in a child process with limits (`child.py`), so a file that loops, exits or crashes is a problem to
show, never the end of the process that reads it.
"""

from agentflow.loader.files import bundle_root, load_python, load_workflow, load_workflows, pick_workflow
from agentflow.loader.process import DEFAULT_LIMITS, ChildLimits, ImportProblem, LoadInterrupted
from agentflow.loader.scan import FolderReader, FolderScan, scan_folder
from agentflow.loader.sources import LoadResult, SourceFile, load_source

__all__ = [
    "DEFAULT_LIMITS",
    "ChildLimits",
    "FolderReader",
    "FolderScan",
    "ImportProblem",
    "LoadInterrupted",
    "LoadResult",
    "SourceFile",
    "bundle_root",
    "load_python",
    "load_source",
    "load_workflow",
    "load_workflows",
    "pick_workflow",
    "scan_folder",
]
