"""Which files of a folder are workflow files, told by their name and text alone, without parsing.

A DAG folder holds data and helper modules too. A YAML file is a workflow file when it has `name:` or `nodes:` at the
start of a line, a JSON file when it has a `"nodes"` key, a Python file when it speaks of `agentflow` and `workflow`.
Files named on the command line are read whatever they look like.
"""

from __future__ import annotations

import re

_YAML_KEY = re.compile(
    rb"""^(?:\xef\xbb\xbf)?["']?(?:name|nodes)["']?[ \t]*:|^\{[^\n]*nodes["']?[ \t]*:""", re.MULTILINE
)
_JSON_KEY = re.compile(rb'"nodes"\s*:')
_PYTHON_WORD = re.compile(rb"\bworkflow\b")


def kind_of(name: str) -> str | None:
    """`yaml`, `json` or `python` by the file's suffix; None for other files."""
    suffix = name[name.rfind(".") :].lower() if "." in name else ""
    return {".yaml": "yaml", ".yml": "yaml", ".json": "json", ".py": "python"}.get(suffix)


def looks_like_workflow(name: str, content: bytes) -> bool:
    """Whether a file of a DAG folder is read as a workflow file."""
    if kind_of(name) == "python":
        return b"agentflow" in content and _PYTHON_WORD.search(content) is not None
    return looks_like_document(name, content)


def looks_like_document(name: str, content: bytes) -> bool:
    """Whether a file is a workflow in YAML or JSON; these are not part of the code."""
    match kind_of(name):
        case "yaml":
            return _YAML_KEY.search(content) is not None
        case "json":
            return _JSON_KEY.search(content) is not None
        case _:
            return False
