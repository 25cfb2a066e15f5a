"""What is stored of the DAG folder's files: their fingerprints, their import errors, and which workflows lost theirs."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from sqlalchemy import Connection, text

from agentflow.db.notify import notify_workflows
from agentflow.loader import FolderScan, ImportProblem, SourceFile

log = logging.getLogger(__name__)

FOLDER_PROBLEM = "."  #: Path under which problems of the folder itself are stored.
TWO_FOLDERS = "two folders"  #: Fingerprint of such import errors: they name no file.
REFUSED = ""  #: Fingerprint of a file that is to be stored again: what refused it may change without the file.

_SEEN = text("SELECT path, fingerprint FROM source_file WHERE workspace_id = :workspace AND fingerprint <> :strange")
_REMEMBER = text("""
INSERT INTO source_file (workspace_id, path, fingerprint, message, line, traceback, seen_at)
VALUES (:workspace, :path, :fingerprint, :message, :line, :traceback, clock_timestamp())
ON CONFLICT (workspace_id, path) DO UPDATE SET fingerprint = excluded.fingerprint, message = excluded.message,
  line = excluded.line, traceback = excluded.traceback, seen_at = excluded.seen_at
WHERE (source_file.fingerprint, source_file.message, source_file.line, source_file.traceback)
  IS DISTINCT FROM (excluded.fingerprint, excluded.message, excluded.line, excluded.traceback)
""")
_FORGET = text("DELETE FROM source_file WHERE workspace_id = :workspace AND path = ANY(CAST(:paths AS text[]))")
_GONE = text("""
UPDATE workflow SET missing = true, updated_at = clock_timestamp()
WHERE workspace_id = :workspace AND source = 'file' AND NOT missing AND source_path = :path
  AND NOT (name = ANY(CAST(:names AS text[])))
RETURNING name
""")
_FORGET_STRANGERS = text("""
DELETE FROM source_file WHERE workspace_id = :workspace AND fingerprint = :strange
  AND (path = :mine OR seen_at < clock_timestamp() - make_interval(secs => :age))
""")


def with_bundle(file: SourceFile, scan: FolderScan) -> str:
    """The fingerprint of a file whose workflows run code of the folder: it changes with that code."""
    return f"{file.fingerprint} {scan.bundle_hash}"


def fingerprints(file: SourceFile, scan: FolderScan) -> tuple[str, str]:
    """What may be stored of an unchanged file."""
    return file.fingerprint, with_bundle(file, scan)


def seen(connection: Connection, workspace: int) -> dict[str, str]:
    """Path -> fingerprint of the files and problems that are stored."""
    rows = connection.execute(_SEEN, {"workspace": workspace, "strange": TWO_FOLDERS})
    return {row.path: row.fingerprint for row in rows}


def are_same(stored: dict[str, str], scan: FolderScan) -> bool:
    """Whether a folder holds what is stored."""
    present = {file.relative: file for file in scan.files}
    return stored.keys() - {problem.file for problem in scan.problems} == present.keys() and all(
        stored[path] in (*fingerprints(file, scan), REFUSED) for path, file in present.items()
    )


def tidy(
    connection: Connection, workspace: int, present: Sequence[SourceFile], problems: Sequence[ImportProblem]
) -> None:
    """Workflows whose file is gone become missing: they do not fire, and come back with their triggers' state."""
    named = {file.relative for file in present} | {problem.file or FOLDER_PROBLEM for problem in problems}
    gone = sorted(seen(connection, workspace).keys() - named)
    for path in gone:
        mark_missing(connection, workspace, path)
    forget(connection, workspace, gone)
    remember_all(connection, workspace, problems)


def mark_missing(connection: Connection, workspace: int, path: str, *, but: Sequence[str] = ()) -> None:
    """The workflows of a file, except those that it still has, are missing."""
    gone = connection.execute(_GONE, {"workspace": workspace, "path": path, "names": list(but)})
    names = [row.name for row in gone]
    for name in names:
        log.warning("workflow_missing", extra={"workflow": name, "file": path})
    notify_workflows(connection, workspace, names)


def forget(connection: Connection, workspace: int, paths: Sequence[str]) -> None:
    """These files are no longer there."""
    connection.execute(_FORGET, {"workspace": workspace, "paths": list(paths)})


def forget_strangers(connection: Connection, workspace: int, mine: str, *, older_than: float) -> None:
    """Drop this scheduler's complaint about a second folder, and those that were not repeated for so many seconds."""
    parameters = {"workspace": workspace, "strange": TWO_FOLDERS, "mine": mine, "age": older_than}
    connection.execute(_FORGET_STRANGERS, parameters)


def remember_all(connection: Connection, workspace: int, problems: Sequence[ImportProblem]) -> None:
    """Store problems of files that could not be read."""
    for problem in problems:
        remember(connection, workspace, problem.file or FOLDER_PROBLEM, REFUSED, problem)


def remember(
    connection: Connection, workspace: int, path: str, fingerprint: str, problem: ImportProblem | None
) -> None:
    """Store a file's fingerprint and its import error, if any; an unchanged row is not written again."""
    message = None
    if problem is not None:
        message = f"{problem.message} ({problem.hint})" if problem.hint else problem.message
    connection.execute(
        _REMEMBER,
        {
            "workspace": workspace,
            "path": path,
            "fingerprint": fingerprint,
            "message": message,
            "line": problem.line if problem else None,
            "traceback": problem.traceback if problem else None,
        },
    )
