"""Runs one attempt: render, validate, run, check. Base dependencies only; knows no executor and no database."""

from __future__ import annotations

from agentflow.runner.attempt import STOPPED, AttemptResult, arun_attempt, run_attempt

__all__ = ["STOPPED", "AttemptResult", "arun_attempt", "run_attempt"]
