"""Inline Python of a node: checked before the run, compiled once, run in a fresh module."""

from __future__ import annotations

import itertools
import linecache
import symtable
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import CodeType, ModuleType
from typing import Final

CODE_MAX: Final = 256 * 1024  #: Characters of inline code; checking more would hold up whoever validates.
_SHOWN: Final = 80  # characters of a wrong line

_serial = itertools.count(1)


@lru_cache(maxsize=256)
def static_problem(code: str) -> str | None:
    """Why the code can never run, with its line; None if nothing is wrong. Compiles, never executes."""
    if len(code) > CODE_MAX:
        return f"the code has {len(code):,} characters, more than {CODE_MAX:,}; put it into a module of the DAG folder"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they belong to the attempt's log, not to a check
            compile(code, "<code>", "exec", dont_inherit=True)
            top = symtable.symtable(code, "<code>", "exec")
    except SyntaxError as error:
        return describe(error)
    except ValueError as error:
        return f"the code cannot be compiled: {error}"
    except (RecursionError, MemoryError, OverflowError):
        return "the code cannot be compiled: it is nested too deeply"
    if "import *" in code:  # main may come from there
        return None
    if "main" not in top.get_identifiers() or not _bound(top.lookup("main")):
        return "the code does not define `main`; write `def main(...):` and return a value from it"
    return None


def describe(error: SyntaxError) -> str:
    """`line 3: invalid syntax: def main(`."""
    place = f"line {error.lineno}: " if error.lineno else ""
    source = (error.text or "").strip()
    if len(source) > _SHOWN:
        source = f"{source[:_SHOWN]}…"
    return f"{place}{error.msg}: {source}" if source else f"{place}{error.msg}"


@contextmanager
def namespace(code: str, node: str) -> Iterator[ModuleType]:
    """The code, run in a module of its own that nothing else sees; forgotten afterwards.

    The module is in `sys.modules` meanwhile, because dataclasses, pydantic and pickle look there.

    Raises:
        SyntaxError: As the compiler reports it, with file `<node ID>` and line.
    """
    compiled = compiled_code(code, f"<node {node}>")
    _show_source(code, compiled.co_filename)
    module = ModuleType(f"__node_{next(_serial)}__", f"Inline code of node {node}.")
    sys.modules[module.__name__] = module
    try:
        exec(compiled, module.__dict__)  # noqa: S102 - running the user's code is this node's purpose
        yield module
    finally:
        sys.modules.pop(module.__name__, None)


@lru_cache(maxsize=256)
def compiled_code(code: str, filename: str) -> CodeType:
    """The compiled code; a warm process compiles each text once."""
    return compile(code, filename, "exec", dont_inherit=True)


def _show_source(code: str, filename: str) -> None:
    """Let tracebacks show the lines of code that is in no file; the last text of a node counts."""
    linecache.cache[filename] = (len(code), None, code.splitlines(keepends=True), filename)


def _bound(symbol: symtable.Symbol) -> bool:
    return symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace()
