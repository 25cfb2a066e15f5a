"""The child that reads one Python file: `python -P -m agentflow.loader.child REQUEST`.

It imports the file under its real name with the bundle's root first on `sys.path`, as a runner will, draws every
workflow of the module, writes one JSON reply to its own pipe and ends without running anything else.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from agentflow.errors import WorkflowBodyError
from agentflow.loader.protocol import RESULT_MARK, module_name
from agentflow.sdk.workflow import Workflow

_TRACEBACK_MAX = 20_000  # characters
_exit = os._exit  # kept: a file may replace it


def main() -> None:
    """Do what the request says; never returns."""
    request = json.loads(sys.argv[1])
    sys.argv[1:] = []
    file, root, reply = Path(request["file"]), Path(request["root"]), int(request["reply"])
    os.set_inheritable(reply, False)
    os.set_inheritable(request["life"], False)
    _limit(request)
    _end_with_parent(request["life"])
    sys.path.insert(0, str(root))
    sys.dont_write_bytecode = True  # reading a folder leaves no trace in it
    document = _read(file, root)
    data = RESULT_MARK + json.dumps(document).encode()
    while data:
        data = data[os.write(reply, data) :]
    _exit(0)


def _limit(request: dict[str, Any]) -> None:
    # Works without the interpreter's lock, so it also ends a file that hangs inside a C function.
    faulthandler.enable(file=request["reply"])
    faulthandler.dump_traceback_later(request["timeout"], exit=True, file=request["reply"])
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    memory = request["memory"] if hard == resource.RLIM_INFINITY else min(request["memory"], hard)
    try:
        resource.setrlimit(resource.RLIMIT_DATA, (memory, hard))
    except (ValueError, OSError):  # macOS knows the name, not the limit
        return


def _end_with_parent(life: int) -> None:
    """Kill this session when the parent's end of the pipe closes."""

    def watch() -> None:
        os.read(life, 1)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _read(file: Path, root: Path) -> dict[str, Any]:
    name = module_name(file.relative_to(root).as_posix())
    try:
        module = importlib.import_module(name)
    except BaseException as error:  # noqa: BLE001 - SystemExit and KeyboardInterrupt of a file are its problems too
        return {"workflows": [], "problems": [_problem(error, file, "importing it")]}
    if not _is_module_of(module, file):
        message = (
            f"the name `{name}` belongs to another module ({getattr(module, '__file__', 'built in')}); rename the file"
        )
        return {"workflows": [], "problems": [{"message": message}]}
    found: list[dict[str, Any]] = []
    problems: list[dict[str, Any]] = []
    for workflow in _workflows(module):
        try:
            document = json.loads(json.dumps(workflow.document(), allow_nan=False))
            line = workflow.function.__code__.co_firstlineno
            found.append({"document": document, "line": line, "lines": workflow.lines})
        except BaseException as error:  # noqa: BLE001 - as above
            problems.append(_problem(error, file, f"the body of workflow `{workflow.name}`"))
    return {"workflows": found, "problems": problems}


def _is_module_of(module: ModuleType, file: Path) -> bool:
    source = getattr(module, "__file__", None)
    return source is not None and Path(source).samefile(file)


def _workflows(module: ModuleType) -> list[Workflow]:
    """The module-level workflows, in order; those imported from another module belong to that one."""
    found: dict[int, Workflow] = {}
    for value in vars(module).values():
        if isinstance(value, Workflow) and not _is_imported(value, module):
            found[id(value)] = value
    return list(found.values())


def _is_imported(workflow: Workflow, module: ModuleType) -> bool:
    home = sys.modules.get(workflow.function.__module__)
    return home is not None and home is not module and any(value is workflow for value in vars(home).values())


def _problem(error: BaseException, file: Path, doing: str) -> dict[str, Any]:
    """An exception of the user's code, with its line and without our frames."""
    if isinstance(error, SystemExit):
        message = f"{doing} calls exit({'' if error.code is None else repr(error.code)})"
        hint: str | None = 'put what only a script does under `if __name__ == "__main__":`'
    elif isinstance(error, MemoryError):
        message, hint = f"{doing} needs more memory than reading a file may use", "load data in a @node function"
    elif isinstance(error, WorkflowBodyError):
        message, hint = error.message, error.hint
    elif isinstance(error, SyntaxError) and "(unicode error) 'utf-8'" in str(error):
        message, hint = f"the file is not UTF-8: {error}", "save it as UTF-8"
    else:
        message, hint = f"{type(error).__name__}: {error}", None
    line = error.lineno if isinstance(error, SyntaxError) and _same(error.filename, file) else None
    frames = _user_frames(error.__traceback__)
    text = "".join(traceback.format_exception(type(error), error, frames))
    return {
        "message": message[:4000],
        "line": line or _line(frames, file),
        "hint": hint,
        "traceback": text[-_TRACEBACK_MAX:],
    }


def _user_frames(frames: TracebackType | None) -> TracebackType | None:
    """The traceback from the first frame that is neither ours nor the import system's."""
    ours = str(Path(__file__).parents[1])
    while frames is not None:
        name = frames.tb_frame.f_code.co_filename
        if not name.startswith((ours, "<frozen importlib")) and name != importlib.__file__:
            return frames
        frames = frames.tb_next
    return None


def _line(frames: TracebackType | None, file: Path) -> int | None:
    """The innermost line of the file."""
    line = None
    while frames is not None:
        if _same(frames.tb_frame.f_code.co_filename, file):
            line = frames.tb_lineno
        frames = frames.tb_next
    return line


def _same(name: str | None, file: Path) -> bool:
    return name is not None and Path(name) == file


if __name__ == "__main__":
    main()
