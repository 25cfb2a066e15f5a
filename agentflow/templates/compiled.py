"""Compiled templates and what running one can raise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jinja2 import Template, TemplateSyntaxError, nodes
from jinja2 import TemplateError as JinjaError
from jinja2.exceptions import SecurityError

from agentflow.errors import TemplateError, TemplateProblem
from agentflow.templates.environment import environment
from agentflow.templates.limits import check_text_size
from agentflow.templates.parsing import TOO_DEEP, lone_expression, parse
from agentflow.templates.values import as_json

#: Compiled templates kept; one takes some 10 times its text.
CACHE_SIZE = 512
#: Characters; longer templates are compiled each time, which is once per attempt.
CACHED_LENGTH = 16 * 2**10

#: Where the value of a lone expression is put. With a leading underscore no template can take it as a context name.
_RESULT = "_value"
_FILENAME = "<template>"


@dataclass(frozen=True, slots=True)
class Compiled:
    """A template ready to run."""

    text: str
    template: Template
    pure: bool  #: Exactly one `{{ … }}`: gives a value, not a text.


def compile_template(text: str) -> Compiled:
    """Parse and compile, from the cache where possible.

    Raises:
        TemplateProblem: The text is not a valid template.
    """
    return _cached(text) if len(text) <= CACHED_LENGTH else _compile(text)


def _compile(text: str) -> Compiled:
    tree = parse(text)
    expression = lone_expression(text, tree)
    if expression is not None:
        tree.body = [nodes.Assign(nodes.Name(_RESULT, "store"), expression, lineno=1)]
        tree.set_environment(environment())
    try:
        code = environment().compile(tree, _FILENAME, _FILENAME)
    except (RecursionError, SyntaxError) as error:  # SyntaxError: Python allows only so many nested blocks
        raise TemplateProblem(TOO_DEEP) from error
    except TemplateSyntaxError as error:
        raise TemplateProblem(f"the template is not valid: {error.message}", line=error.lineno) from error
    template = Template.from_code(environment(), code, environment().globals)
    return Compiled(text, template, pure=expression is not None)


_cached = lru_cache(maxsize=CACHE_SIZE)(_compile)


def run_template(compiled: Compiled, context: Mapping[str, Any]) -> Any:
    """The value of a lone expression, or the text of any other template.

    Raises:
        TemplateError: Whatever went wrong in it, with the text that did.
        MemoryError: The limit of the process was reached.
    """
    try:
        return _value(compiled, context) if compiled.pure else _text(compiled, context)
    except MemoryError:
        raise
    except TemplateError as error:
        raise TemplateError(f"{error.message}{_place(compiled, error)}", hint=error.hint) from error
    except SecurityError as error:
        raise TemplateError(f"refused: {error}{_place(compiled, error)}") from error
    except RecursionError as error:
        raise TemplateError(f"the template calls itself too deeply{_place(compiled, error)}") from error
    except JinjaError as error:
        raise TemplateError(f"{error}{_place(compiled, error)}") from error
    except Exception as error:  # a template may provoke whatever Python's operators and methods raise
        raise TemplateError(f"{type(error).__name__}: {error}{_place(compiled, error)}") from error


def _value(compiled: Compiled, context: Mapping[str, Any]) -> Any:
    scope = compiled.template.new_context(dict(context))
    for _ in compiled.template.root_render_func(scope):
        pass  # an assignment prints nothing; the loop runs it
    return as_json(scope.vars[_RESULT])


def _text(compiled: Compiled, context: Mapping[str, Any]) -> str:
    scope = compiled.template.new_context(dict(context))
    pieces: list[str] = []
    size = 0
    for piece in compiled.template.root_render_func(scope):
        size += len(piece)
        check_text_size(size)
        pieces.append(piece)
    return "".join(pieces)


def _place(compiled: Compiled, error: BaseException) -> str:
    """Which template, and which line of a longer one."""
    lines = compiled.text.strip().splitlines()
    if len(lines) == 1:
        return f", in {lines[0]:.120}"
    number = None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == _FILENAME:
            number = compiled.template.get_corresponding_lineno(trace.tb_lineno)
        trace = trace.tb_next
    if number is None:
        return ""
    return f", in line {number}: {compiled.text.splitlines()[number - 1].strip():.120}"
