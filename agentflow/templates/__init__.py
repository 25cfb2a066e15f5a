"""Sandboxed expressions and templates (SEMANTICS section 2): render, evaluate, and say what a text refers to.

Jinja itself is imported at the first text that holds a template, so a config without one costs a scan.
Rendering runs what users wrote: only the runner and the evaluator's child do it, both limited in memory and time.
"""

from __future__ import annotations

from agentflow.errors import TemplateProblem
from agentflow.templates.references import CONTEXT_NAMES, References, find_references, find_references_in
from agentflow.templates.rendering import evaluate, render, truth, with_inputs
from agentflow.templates.scan import has_template, iter_templates

__all__ = [
    "CONTEXT_NAMES",
    "References",
    "TemplateProblem",
    "evaluate",
    "find_references",
    "find_references_in",
    "has_template",
    "iter_templates",
    "render",
    "truth",
    "with_inputs",
]
