"""Runs each attempt in a process of its own, made for it, limited, and gone afterwards with all that it started."""

from __future__ import annotations

from executors.subprocess.executor import SubprocessExecutor

__all__ = ["SubprocessExecutor"]
