"""Walks a DAG folder: which files belong to it, in an order that is the same on every machine."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from agentflow.errors import BundleTooLarge
from agentflow.ignore import IGNORE_FILE, IgnoreRules, parse_ignore

_SKIPPED_FOLDERS = frozenset({"__pycache__", "node_modules"})
_SKIPPED_SUFFIXES = (".pyc", ".pyo", ".swp", ".tmp", "~")
_MAX_DEPTH = 32  # folders; deeper trees are mistakes
MAX_FILES = 50_000  #: More is a home directory or a disk, named by mistake; the walk stops there.


@dataclass(frozen=True, slots=True)
class FolderFile:
    """A regular file of the folder."""

    relative: str  #: Posix path below the root.
    path: Path
    size: int  #: Bytes.
    executable: bool
    stamp: tuple[int, ...]  #: Changes when the file does: inode, size, mtime and ctime in nanoseconds.


@dataclass(slots=True)
class _Walk:
    root: Path
    rules: IgnoreRules
    seen: set[tuple[int, int]] = field(default_factory=set)  #: Folders, by device and inode.


def walk_folder(root: Path) -> Iterator[FolderFile]:
    """The files of a folder, sorted by path.

    Left out: hidden files and folders, `__pycache__`, editors' leftovers, what `.agentflowignore` names, and anything
    that is not a regular file (opening a pipe would wait for ever). Symbolic links are followed, as mounted volumes
    need; each folder is visited once, so loops end.

    Raises:
        BundleTooLarge: It has more than MAX_FILES.
        OSError: The root itself cannot be read.
    """
    walk = _Walk(root, read_rules(root))
    files = list(islice(_files_below(walk, root, "", 0), MAX_FILES + 1))
    if len(files) > MAX_FILES:
        raise BundleTooLarge(
            f"{root} has more than {MAX_FILES} files",
            hint=f"give the workflows a folder of their own, or name the other files in {IGNORE_FILE}",
        )
    yield from sorted(files, key=lambda file: file.relative)


def read_rules(root: Path) -> IgnoreRules:
    """The folder's ignore file; no rules when there is none."""
    try:
        return parse_ignore((root / IGNORE_FILE).read_text("utf-8", errors="replace").splitlines())
    except (FileNotFoundError, NotADirectoryError):
        return IgnoreRules()


def _files_below(walk: _Walk, folder: Path, prefix: str, depth: int) -> Iterator[FolderFile]:
    info = folder.stat()
    if depth > _MAX_DEPTH or (info.st_dev, info.st_ino) in walk.seen:
        return
    walk.seen.add((info.st_dev, info.st_ino))
    with os.scandir(folder) as entries:
        # Real folders before links to them: a link to a sibling must not take its place.
        ordered = sorted(entries, key=lambda entry: (entry.is_symlink(), entry.name))
    for entry in ordered:
        relative = prefix + entry.name
        if _is_skipped(entry.name) or not _is_text(relative):
            continue
        try:
            info = entry.stat()
        except OSError:  # a broken link, or gone since the listing
            continue
        if stat.S_ISDIR(info.st_mode):
            if entry.name not in _SKIPPED_FOLDERS and not walk.rules.ignores(relative, folder=True):
                yield from _readable(walk, Path(entry.path), relative, depth)
        elif stat.S_ISREG(info.st_mode) and not walk.rules.ignores(relative, folder=False):
            yield FolderFile(
                relative=relative,
                path=Path(entry.path),
                size=info.st_size,
                executable=bool(info.st_mode & 0o100),
                stamp=(info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns),
            )


def _readable(walk: _Walk, folder: Path, relative: str, depth: int) -> Iterator[FolderFile]:
    try:
        yield from _files_below(walk, folder, f"{relative}/", depth + 1)
    except OSError:  # a folder without permission hides its own files only
        return


def _is_skipped(name: str) -> bool:
    return name.startswith(".") or name.endswith(_SKIPPED_SUFFIXES)


def _is_text(name: str) -> bool:
    """Whether a name is UTF-8: others cannot be named in a spec or travel to another machine."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
