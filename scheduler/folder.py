"""Keeps the stored workflows in step with the DAG folder. One scheduler at a time, under an advisory lock (SEMANTICS 6)."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from functools import partial

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from agentflow.bundles import Bundle, build_bundle
from agentflow.catalog import apply_spec, workspace_id
from agentflow.db.engine import is_disconnect, transact
from agentflow.errors import AgentFlowError
from agentflow.loader import (
    DEFAULT_LIMITS,
    FolderReader,
    FolderScan,
    ImportProblem,
    LoadInterrupted,
    LoadResult,
    SourceFile,
    load_source,
)
from agentflow.nodes import registry
from agentflow.settings import Settings
from agentflow.spec import WorkflowSpec
from agentflow.states import SCHEDULER_DEAD
from scheduler import source_files as files
from scheduler.identity import Identity

log = logging.getLogger(__name__)

LOCK = 0x4146_4453  #: "AFDS": advisory lock of the sync, with the workspace's id as second key.

_TRY_LOCK = text("SELECT pg_try_advisory_lock(:key, :workspace)")
_UNLOCK = text("SELECT pg_advisory_unlock(:key, :workspace)")
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


class FolderSync:
    """Reads the folder, and applies the files that changed."""

    def __init__(self, engine: Engine, settings: Settings, identity: Identity) -> None:
        self._engine = engine
        self._settings = settings
        self._identity = identity
        self._reader = FolderReader(settings.dags_path)
        self._bundle: Bundle | None = None
        self._stopping = threading.Event()
        self._limits = replace(DEFAULT_LIMITS, stopped=self._stopping.is_set)
        self._refused: dict[str, LoadResult] = {}  # files that loaded and could not be stored, by path

    def stop(self) -> None:
        """Break off: a file that is being read is read at the next start; from any thread."""
        self._stopping.set()

    def sync(self) -> int:
        """One look at the folder; how many files were read again."""
        if self._stopping.is_set():
            return 0
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            workspace = workspace_id(connection, self._settings.workspace)
            # A session's lock: reading files takes longer than a transaction may.
            key = {"key": LOCK, "workspace": workspace}
            if not connection.scalar(_TRY_LOCK, key):
                return 0
            try:
                return self._sync_locked(workspace)
            except LoadInterrupted:
                return 0
            finally:
                connection.execute(_UNLOCK, key)

    def _sync_locked(self, workspace: int) -> int:
        scan = self._scan(workspace)
        if scan is None or not transact(self._engine, partial(self._may_own, workspace=workspace, scan=scan)):
            return 0
        if any(problem.file == str(self._reader.root) for problem in scan.problems):
            # Unreadable is not empty: the workflows stay as they are until the folder can be read again.
            transact(self._engine, partial(files.remember_all, workspace=workspace, problems=scan.problems))
            return 0
        with self._engine.begin() as connection:
            seen = files.seen(connection, workspace)
        changed = [file for file in scan.files if self._is_changed(file, seen.get(file.relative), scan)]
        for file in changed:
            self._read(workspace, file, scan)
        transact(self._engine, partial(files.tidy, workspace=workspace, present=scan.files, problems=scan.problems))
        self._retry_refused(workspace, scan)
        return len(changed)

    def _scan(self, workspace: int) -> FolderScan | None:
        """The folder as it is; None when there is none, and neither the settings nor its past ask for one."""
        if self._settings.dags_folder is None and not self._settings.dags_path.is_dir():
            with self._engine.begin() as connection:
                owner = connection.execute(_OWNER, {"workspace": workspace, "fresh": 0}).one_or_none()
            if owner is None or (owner.folder, owner.hostname) != self._place():
                return None
        return self._reader.scan()

    def _place(self) -> tuple[str, str]:
        return str(self._settings.dags_path.resolve()), self._settings.hostname

    def _may_own(self, connection: Connection, workspace: int, scan: FolderScan) -> bool:
        """Whether this scheduler's folder is the workspace's; a second folder is an import error, not flapping.

        The same folder on another machine stands by, and is an error only while its contents differ.
        """
        folder, host = self._place()
        fresh = max(SCHEDULER_DEAD * 2, self._settings.sync_interval * 3)
        owner = connection.execute(_OWNER, {"workspace": workspace, "fresh": fresh}).one_or_none()
        strange = f"{host}:{folder}"
        if owner is None or not owner.fresh or (owner.folder, owner.hostname) == (folder, host):
            mine = {"folder": folder, "hostname": host, "scheduler": str(self._identity.id)}
            connection.execute(_OWN, {"workspace": workspace} | mine)
            files.forget_strangers(connection, workspace, strange, older_than=fresh)
            return True
        if files.are_same(files.seen(connection, workspace), scan):
            files.forget(connection, workspace, [strange])
        else:
            message = f"two folders: {owner.folder} on {owner.hostname} and {folder} on {host}"
            hint = "give all schedulers of a workspace the same files, or the other ones a workspace of their own"
            files.forget_strangers(connection, workspace, strange, older_than=fresh)
            files.remember(
                connection, workspace, strange, files.TWO_FOLDERS, ImportProblem(strange, message, hint=hint)
            )
        return False

    def _is_changed(self, file: SourceFile, seen: str | None, scan: FolderScan) -> bool:
        refused = self._refused.get(file.relative)
        if refused is not None and refused.file.fingerprint == file.fingerprint:
            return False  # it is known what it holds; `_retry_refused` stores it
        return seen not in files.fingerprints(file, scan)

    def _read(self, workspace: int, file: SourceFile, scan: FolderScan) -> None:
        result = load_source(file, limits=self._limits)
        for problem in result.problems[:1]:
            log.warning("import_error", extra={"file": file.relative, "error": problem.message})
        self._store_guarded(workspace, result, scan)

    def _retry_refused(self, workspace: int, scan: FolderScan) -> None:
        """Store again what was refused: another file may have given up the name, or the pool been made."""
        current = {file.relative: file.fingerprint for file in scan.files}
        for path, result in list(self._refused.items()):
            if current.get(path) == result.file.fingerprint:
                self._store_guarded(workspace, result, scan)
            else:
                del self._refused[path]

    def _store_guarded(self, workspace: int, result: LoadResult, scan: FolderScan) -> None:
        """One file that the database refuses must not keep the others from being stored."""
        try:
            refused = transact(self._engine, partial(self._store, workspace=workspace, result=result, scan=scan))
        except DBAPIError as error:
            if is_disconnect(error):
                raise
            if result.file.relative not in self._refused:
                log.error("file_not_stored", extra={"file": result.file.relative}, exc_info=error)
            problem = ImportProblem(result.file.relative, f"cannot be stored: {str(error.orig).splitlines()[0]}")
            transact(self._engine, partial(files.remember_all, workspace=workspace, problems=[problem]))
            refused = True
        if refused:
            self._refused[result.file.relative] = result
        else:
            self._refused.pop(result.file.relative, None)

    def _store(self, connection: Connection, workspace: int, result: LoadResult, scan: FolderScan) -> bool:
        """Apply a file's workflows and note what came of it; whether any was refused."""
        file, refusal, uses_code = result.file, None, False
        for spec in result.specs:
            try:
                with connection.begin_nested():
                    uses_code |= self._apply(connection, spec, file, scan.bundle_hash)
            except AgentFlowError as error:
                refusal = refusal or ImportProblem(file.relative, error.message, hint=error.hint)
        problem = result.problems[0] if result.problems else refusal
        if problem is None:
            names = [spec.name for spec in result.specs]
            files.mark_missing(connection, workspace, file.relative, but=names)
        fingerprint = files.with_bundle(file, scan) if uses_code else file.fingerprint
        files.remember(connection, workspace, file.relative, files.REFUSED if refusal else fingerprint, problem)
        return refusal is not None

    def _apply(self, connection: Connection, spec: WorkflowSpec, file: SourceFile, bundle_hash: str | None) -> bool:
        """Apply one workflow; whether it runs code of the folder."""
        uses_code = any(registry.get(node.type).uses_code for node in spec.nodes.values())
        if uses_code and (self._bundle is None or self._bundle.hash != bundle_hash):
            self._bundle = build_bundle(file.root)
        applied = apply_spec(
            connection,
            spec,
            source="file",
            source_path=file.relative,
            bundle=self._bundle if uses_code else None,
            actor=f"file:{file.relative}",
            workspace=self._settings.workspace,
        )
        if applied["changed"]:
            log.info("workflow_applied", extra={"workflow": spec.name, "version": applied["version"]})
        return uses_code
