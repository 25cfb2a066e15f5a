"""Runs one attempt: render, validate, run, check. Base dependencies only; knows no executor and no database."""

from __future__ import annotations

from agentflow.runner.attempt import AttemptResult, run_attempt

__all__ = ["AttemptResult", "run_attempt"]
