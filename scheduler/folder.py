"""Keeps the stored workflows in step with the DAG folder. One scheduler at a time, under an advisory lock (SEMANTICS 6)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

from sqlalchemy import Connection, Engine, text

from agentflow.bundles import Bundle, build_bundle
from agentflow.catalog import apply_spec, workspace_id
from agentflow.catalog.triggers import restart_triggers
from agentflow.db.engine import transact
from agentflow.errors import AgentFlowError
from agentflow.loader import FolderReader, ImportProblem, LoadResult, SourceFile, load_source
from agentflow.nodes import registry
from agentflow.settings import Settings
from agentflow.spec import WorkflowSpec
from scheduler.identity import DEAD_AFTER, Identity

log = logging.getLogger(__name__)

LOCK = 0x4146_4453  #: "AFDS": advisory lock of the sync, with the workspace's id as second key.
FOLDER_PROBLEM = "."  #: Path under which problems of the folder itself are stored.

_TRY_LOCK = text("SELECT pg_try_advisory_xact_lock(:key, :workspace)")
_OWNER = text(
    "SELECT folder, hostname, scheduler_id, seen_at > clock_timestamp() - make_interval(secs => :fresh) AS fresh "
    "FROM dag_folder WHERE workspace_id = :workspace"
)
_OWN = text("""
INSERT INTO dag_folder (workspace_id, folder, hostname, scheduler_id, seen_at)
VALUES (:workspace, :folder, :hostname, :scheduler, clock_timestamp())
ON CONFLICT (workspace_id) DO UPDATE SET folder = excluded.folder, hostname = excluded.hostname,
  scheduler_id = excluded.scheduler_id, seen_at = excluded.seen_at
""")
_SEEN = text("SELECT path, fingerprint FROM source_file WHERE workspace_id = :workspace")
_REMEMBER = text("""
INSERT INTO source_file (workspace_id, path, fingerprint, message, line, traceback, seen_at)
VALUES (:workspace, :path, :fingerprint, :message, :line, :traceback, clock_timestamp())
ON CONFLICT (workspace_id, path) DO UPDATE SET fingerprint = excluded.fingerprint, message = excluded.message,
  line = excluded.line, traceback = excluded.traceback, seen_at = excluded.seen_at
""")
_FORGET = text("DELETE FROM source_file WHERE workspace_id = :workspace AND path = ANY(CAST(:paths AS text[]))")
_GONE = text("""
UPDATE workflow SET missing = true, updated_at = clock_timestamp()
WHERE workspace_id = :workspace AND source = 'file' AND NOT missing AND source_path = :path
  AND NOT (name = ANY(CAST(:names AS text[])))
RETURNING id, name
""")
_BACK = text("""
UPDATE workflow SET missing = false
WHERE workspace_id = :workspace AND source = 'file' AND missing AND source_path = :path RETURNING id
""")


class FolderSync:
    """Reads the folder, and applies the files that changed."""

    def __init__(self, engine: Engine, settings: Settings, identity: Identity) -> None:
        self._engine = engine
        self._settings = settings
        self._identity = identity
        self._reader = FolderReader(settings.dags_path)
        self._bundle: Bundle | None = None

    def sync(self) -> int:
        """One look at the folder; how many files were read again."""
        if not self._settings.dags_path.is_dir():
            return 0
        scan = self._reader.scan()
        with self._engine.begin() as connection:
            workspace = workspace_id(connection, self._settings.workspace)
            if not connection.scalar(_TRY_LOCK, {"key": LOCK, "workspace": workspace}):
                return 0
            if not self._may_own(connection, workspace):
                return 0
            seen = {row.path: row.fingerprint for row in connection.execute(_SEEN, {"workspace": workspace})}
        changed = [file for file in scan.files if seen.get(file.relative) != file.fingerprint]
        for file in changed:
            self._read(workspace, file, scan.bundle_hash)
        transact(self._engine, partial(self._tidy, workspace=workspace, files=scan.files, problems=scan.problems))
        return len(changed)

    def _may_own(self, connection: Connection, workspace: int) -> bool:
        """Whether this scheduler's folder is the workspace's; a second folder is an import error, not flapping."""
        folder = str(self._settings.dags_path.resolve())
        owner = connection.execute(_OWNER, {"workspace": workspace, "fresh": DEAD_AFTER * 2}).one_or_none()
        mine = {"folder": folder, "hostname": self._settings.hostname}
        if owner is not None and owner.fresh and (owner.folder, owner.hostname) != (folder, mine["hostname"]):
            message = f"two folders: {owner.folder} on {owner.hostname} and {folder} on {mine['hostname']}"
            _remember(connection, workspace, f"{mine['hostname']}:{folder}", "", ImportProblem(".", message))
            return False
        connection.execute(_OWN, {"workspace": workspace, "scheduler": str(self._identity.id), **mine})
        return True

    def _read(self, workspace: int, file: SourceFile, bundle_hash: str | None) -> None:
        result = load_source(file)
        for problem in result.problems[:1]:
            log.warning("import_error", extra={"file": file.relative, "error": problem.message})
        transact(self._engine, partial(self._store, workspace=workspace, result=result, bundle_hash=bundle_hash))

    def _store(self, connection: Connection, workspace: int, result: LoadResult, bundle_hash: str | None) -> None:
        file = result.file
        problem = result.problems[0] if result.problems else None
        for spec in result.specs:
            try:
                with connection.begin_nested():
                    self._apply(connection, spec, file, bundle_hash)
            except AgentFlowError as error:
                problem = problem or ImportProblem(file.relative, error.message, hint=error.hint)
        if problem is None:
            names = [spec.name for spec in result.specs]
            connection.execute(_GONE, {"workspace": workspace, "path": file.relative, "names": names})
        _remember(connection, workspace, file.relative, file.fingerprint, problem)

    def _apply(self, connection: Connection, spec: WorkflowSpec, file: SourceFile, bundle_hash: str | None) -> None:
        bundle = None
        if any(registry.get(node.type).uses_code for node in spec.nodes.values()):
            if self._bundle is None or self._bundle.hash != bundle_hash:
                self._bundle = build_bundle(file.root)
            bundle = self._bundle
        applied = apply_spec(
            connection,
            spec,
            source="file",
            source_path=file.relative,
            bundle=bundle,
            actor=f"file:{file.relative}",
            workspace=self._settings.workspace,
        )
        if applied["changed"]:
            log.info("workflow_applied", extra={"workflow": spec.name, "version": applied["version"]})

    @staticmethod
    def _tidy(
        connection: Connection, workspace: int, files: Sequence[SourceFile], problems: Sequence[ImportProblem]
    ) -> None:
        """Workflows whose file is gone become missing, keep their triggers' state, and come back with it."""
        present = {file.relative for file in files}
        seen = {row.path for row in connection.execute(_SEEN, {"workspace": workspace})}
        current = {problem.file or FOLDER_PROBLEM for problem in problems}
        gone = [path for path in seen - present - current if ":" not in path]
        for path in gone:
            for row in connection.execute(_GONE, {"workspace": workspace, "path": path, "names": []}).all():
                log.warning("workflow_missing", extra={"workflow": row.name, "file": path})
        connection.execute(_FORGET, {"workspace": workspace, "paths": gone})
        for problem in problems:
            _remember(connection, workspace, problem.file or FOLDER_PROBLEM, "", problem)
        for path in present & seen:
            for row in connection.execute(_BACK, {"workspace": workspace, "path": path}).all():
                restart_triggers(connection, row.id)


def _remember(
    connection: Connection, workspace: int, path: str, fingerprint: str, problem: ImportProblem | None
) -> None:
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
