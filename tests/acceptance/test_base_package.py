"""The base package (a worker pod's) is enough for the runner and every built-in node type."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("every_node_type.py")


def base_dependencies() -> dict[str, Distribution]:
    """What `pip install agentflow` brings, without any extra."""
    found: dict[str, Distribution] = {}
    waiting = [("agentflow", frozenset())]
    while waiting:
        name, extras = waiting.pop()
        for text in distribution(name).requires or ():
            needed = Requirement(text)
            wanted = needed.marker is None or any(needed.marker.evaluate({"extra": e}) for e in extras or {""})
            if wanted and canonicalize_name(needed.name) not in found:
                found[canonicalize_name(needed.name)] = distribution(needed.name)
                waiting.append((needed.name, frozenset(needed.extras)))
    return found


@pytest.fixture
def packages(tmp_path):
    """A folder with the base dependencies and the `agentflow` folder, as in a worker's image: no metadata of ours."""
    folder = tmp_path / "packages"
    folder.mkdir()
    (folder / "agentflow").symlink_to(ROOT / "agentflow")
    for package in base_dependencies().values():
        for top in {file.parts[0] for file in package.files or () if file.parts[0] not in ("..", "__pycache__")}:
            (folder / top).symlink_to(Path(str(package.locate_file(top))))
    return folder


def python(packages: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A Python that sees these packages and the standard library only."""
    start = "import runpy, sys; sys.path.insert(0, sys.argv[1]); del sys.argv[0:2]; "
    start += "runpy.run_path(sys.argv[0], run_name='__main__')"
    return subprocess.run(
        [sys.executable, "-I", "-S", "-W", "error", "-c", start, str(packages), *arguments],
        cwd=packages.parent,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_every_built_in_node_type_runs_with_the_base_dependencies(packages):
    done = python(packages, str(SCRIPT))
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["ran"].keys() >= {"http", "noop", "python", "shell", "template", "wait"}
    assert Path(answer["agentflow"]) == packages / "agentflow"


def test_the_base_dependencies_are_four():
    direct = [Requirement(text) for text in distribution("agentflow").requires or () if "extra ==" not in text]
    assert sorted(canonicalize_name(one.name) for one in direct) == ["httpx", "jinja2", "pydantic", "ruamel-yaml"]
    assert not base_dependencies().keys() & {"sqlalchemy", "typer", "rich", "psycopg"}


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_line_without_its_extra_says_how_to_get_it(packages, as_json):
    main = str(ROOT / "agentflow" / "__main__.py")
    done = python(packages, main, "doctor", *(["--json"] if as_json else []))
    assert done.returncode == 1
    if as_json:
        assert json.loads(done.stdout)["error"]["type"] == "not-installed"
    else:
        assert done.stdout == ""
        assert 'pip install "agentflow[server]"' in done.stderr
        assert "Traceback" not in done.stderr
