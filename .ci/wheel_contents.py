"""Checks that a wheel has what the checkout has: every module, the migrations, the entry points. `wheel_contents.py WHEEL`."""

from __future__ import annotations

import configparser
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

PACKAGES = ("agentflow", "executors", "scheduler", "webserver")
MIGRATIONS = "migrations/"


def expected() -> set[str]:
    """Names inside the wheel of all files that git has of the packages and the migrations."""
    command = ["git", "ls-files", "-z", "--", *PACKAGES, MIGRATIONS]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    files = {name for name in listed.split("\0") if name and Path(name).is_file()}
    return {f"agentflow/_{name}" if name.startswith(MIGRATIONS) else name for name in files}


def entry_points(text: str) -> dict[str, dict[str, str]]:
    """Groups of `entry_points.txt`."""
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None)
    parser.optionxform = str  # type: ignore[method-assign,assignment] # names keep their case
    parser.read_string(text)
    return {group: dict(parser[group]) for group in parser.sections()}


def declared() -> dict[str, dict[str, str]]:
    """The same from `pyproject.toml`."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    return {"console_scripts": project["scripts"], **project["entry-points"]}


def main() -> None:
    with zipfile.ZipFile(sys.argv[1]) as wheel:
        names = set(wheel.namelist())
        (found,) = (name for name in names if name.endswith(".dist-info/entry_points.txt"))
        points = entry_points(wheel.read(found).decode())
    packed = {name for name in names if ".dist-info/" not in name}
    if packed != expected():
        sys.exit(f"missing in the wheel: {sorted(expected() - packed)}; not in git: {sorted(packed - expected())}")
    if points != declared():
        sys.exit(f"entry points of the wheel: {points}; of pyproject.toml: {declared()}")
    print(f"-- the wheel has all {len(packed)} files and {sum(map(len, points.values()))} entry points")


if __name__ == "__main__":
    main()
