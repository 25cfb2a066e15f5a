"""Runs a bash script in the attempt's working directory."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field

from agentflow.nodes.base import NodeConfig, NodeContext, NodeFailed, NodeSkipped, NodeType
from agentflow.nodes.fields import NO_SECRETS, Text
from agentflow.nodes.process import Ended, passed_on, run_streamed

_OURS: Final = ("RUN_ID", "WORKFLOW", "NODE", "MAP_INDEX", "ATTEMPT", "REQUEST_ID", "WORK_DIR", "OUTPUT")
_SIGPIPE_EXIT: Final = 141  # 128 + SIGPIPE


def _variable(name: str) -> str:
    if not name.isascii() or not name.isidentifier():
        raise ValueError("is not a name of an environment variable (letters, digits and _)")
    if name.removeprefix("AGENTFLOW_") in _OURS and name.startswith("AGENTFLOW_"):
        raise ValueError("is set by AgentFlow; choose another name")
    return name


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("contains a NUL character, which the operating system does not accept here")
    return text


def _inside(name: str) -> str:
    path = Path(_no_nul(name))
    if not path.parts or path.is_absolute() or ".." in path.parts:
        raise ValueError("must be a path inside the working directory, such as data/input.csv")
    return name


class ShellConfig(NodeConfig):
    """Config of `shell`."""

    command: str = Field(description="Script for bash -euo pipefail", min_length=1, json_schema_extra=NO_SECRETS)
    env: dict[Annotated[str, AfterValidator(_variable)], Annotated[Text, AfterValidator(_no_nul)]] = Field(
        default_factory=dict, description="Environment variables; the place for secrets"
    )
    files: dict[Annotated[str, AfterValidator(_inside)], Text] = Field(
        default_factory=dict, description="Files to write into the working directory first: path and content"
    )
    cwd: Annotated[str, AfterValidator(_no_nul)] | None = Field(
        None, description="Where the script runs: absolute, or relative to the working directory (its default)"
    )
    skip_exit_code: int | None = Field(99, description="Exit code that marks the node as skipped", ge=1, le=255)


class ShellNode(NodeType[ShellConfig]):
    """The script is a file, never an argument, so that `ps` shows nothing of it."""

    name = "shell"
    title = "Shell"
    description = "Runs a bash script; its output is the JSON it writes to $AGENTFLOW_OUTPUT, else its stdout."
    Config = ShellConfig

    def run(self, config: ShellConfig, context: NodeContext) -> Any:
        """The JSON of `$AGENTFLOW_OUTPUT` if the script wrote it, else `{exit_code, stdout}`."""
        write_files(context.work_dir, config.files)
        with TemporaryDirectory(prefix=".agentflow-", dir=context.work_dir) as private:
            script, output = Path(private, "command.sh"), Path(private, "output.json")
            _write(script, config.command)
            ended = run_streamed(
                [_bash(), "--noprofile", "--norc", "-euo", "pipefail", str(script)],
                cwd=_folder(config.cwd, context.work_dir),
                env=environment(os.environ, config.env, context, output),
                log=context.log,
            )
            _check(ended, config.skip_exit_code)
            return _output(output, context.output_max, ended.stdout)


def environment(
    inherited: Mapping[str, str], given: Mapping[str, str], context: NodeContext, output: Path
) -> dict[str, str]:
    """The script's whole environment: an allow-list of the runner's, the node's `env`, and where it runs."""
    ours = {
        "RUN_ID": context.run_id,
        "WORKFLOW": context.workflow,
        "NODE": context.node,
        "MAP_INDEX": "" if context.map_index is None else str(context.map_index),
        "ATTEMPT": str(context.attempt),
        "REQUEST_ID": context.request_id,
        "WORK_DIR": str(context.work_dir),
        "OUTPUT": str(output),
    }
    return passed_on(inherited) | dict(given) | {f"AGENTFLOW_{name}": ours[name] for name in _OURS}


def write_files(root: Path, files: Mapping[str, str]) -> None:
    """Write texts below a folder, readable by this user only.

    Raises:
        NodeFailed: A path leads out of the folder, through a link for example, or cannot be written.
    """
    for name, text in files.items():
        path = root / name
        if not path.resolve().is_relative_to(root.resolve()):
            raise NodeFailed(f"files: {name!r} leads out of the working directory")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write(path, text)
        except OSError as error:
            raise NodeFailed(f"files: {name!r} cannot be written: {error.strerror}") from error


def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        file.write(text)


def _bash() -> str:
    found = shutil.which("bash")
    if found is None:
        raise NodeFailed("bash is not on PATH; install it where the runner runs")
    return found


def _folder(cwd: str | None, work_dir: Path) -> Path:
    folder = work_dir / cwd if cwd else work_dir
    if not folder.is_dir():
        raise NodeFailed(f"cwd: there is no folder {str(folder)!r}")
    return folder


def _check(ended: Ended, skip_exit_code: int | None) -> None:
    code = ended.returncode
    if code == 0:
        return
    if code == skip_exit_code:
        raise NodeSkipped(f"the command exited with {code}")
    said = f": {ended.last_error}" if ended.last_error else ""
    if code < 0:
        raise NodeFailed(f"the command was killed by signal {-code}{said}", kind="Signal", signal=-code)
    hint = " (a command in a pipe ended before it had read everything)" if code == _SIGPIPE_EXIT else ""
    raise NodeFailed(f"the command exited with code {code}{hint}{said}", kind="ExitCode", exit_code=code)


def _output(path: Path, limit: int, stdout: str) -> Any:
    """The value in the file, or the standard output if the script left the file alone."""
    if not path.is_file() or path.stat().st_size == 0:
        return {"exit_code": 0, "stdout": stdout}
    if path.stat().st_size > limit:
        raise NodeFailed(
            f"$AGENTFLOW_OUTPUT holds {path.stat().st_size:,} bytes, more than the {limit:,} allowed "
            "(AGENTFLOW_OUTPUT_MAX); store the data elsewhere and write a reference to it"
        )
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:  # not UTF-8 is a ValueError too
        raise NodeFailed(f"what was written to $AGENTFLOW_OUTPUT is not JSON: {error}", kind="OutputNotJson") from error
