"""Claim -> workloads: what a claimed node run needs to run, put into one document."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from agentflow.bundles import extract_bundle
from agentflow.db.queries.attempts import attempt_id
from agentflow.db.queries.claims import Claim
from agentflow.errors import AgentFlowError
from agentflow.settings import Settings
from agentflow.workload import ErrorInfo, Finished, Limits, Outcome, Workload
from scheduler.contexts import Asking, ContextLoader
from scheduler.versions import LoadedVersion, VersionCache

log = logging.getLogger(__name__)

TOO_LARGE = (
    "the outputs that this node reads are over 64 MiB together; pass references (paths, keys) instead of the data"
)
_BUNDLE = text("SELECT data FROM bundle WHERE hash = :hash")


class Dispatcher:
    """Builds workloads. For the loop's thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._versions = VersionCache()
        self._contexts = ContextLoader()
        self._extracted: set[str] = set()

    def build(self, connection: Connection, claims: Sequence[Claim]) -> tuple[list[Workload], list[Finished]]:
        """The workloads of these claims, in order; and the ends of those that cannot even begin.

        Raises:
            DBAPIError: The database failed; nothing can be said about any claim.
        """
        try:
            return self._build(connection, claims)
        except DBAPIError:
            raise
        except Exception as error:  # one version that cannot be read must not hold up the others
            if len(claims) == 1:
                log.exception("claim_not_prepared", extra={"version": claims[0].version_id})
                return [], [_failed(claims[0], type(error).__name__, f"the attempt could not be prepared: {error}")]
            parts = [self.build(connection, [claim]) for claim in claims]
            return [work for works, _ in parts for work in works], [end for _, ends in parts for end in ends]

    def _build(self, connection: Connection, claims: Sequence[Claim]) -> tuple[list[Workload], list[Finished]]:
        versions = [self._versions.get(connection, claim.version_id) for claim in claims]
        asking = [
            Asking(claim.key[0], version, version.policy(claim.key[1]).references)
            for claim, version in zip(claims, versions, strict=True)
        ]
        workloads: list[Workload] = []
        failed: list[Finished] = []
        for claim, version, context in zip(claims, versions, self._contexts.load(connection, asking), strict=True):
            if context is None:
                failed.append(_failed(claim, "InputTooLarge", TOO_LARGE))
                continue
            try:
                if version.bundle_hash is not None:
                    self._extract(connection, version.bundle_hash)
                workloads.append(self._workload(claim, version, context))
            except (AgentFlowError, OSError) as error:
                failed.append(_failed(claim, type(error).__name__, f"the attempt could not be prepared: {error}"))
        return workloads, failed

    def _workload(self, claim: Claim, version: LoadedVersion, context: dict[str, object]) -> Workload:
        run_id, node_no, map_index, attempt = claim.key
        policy = version.policy(node_no)
        settings = self._settings
        # Trusted parts of our own making: validating them again would cost more than building them.
        return Workload.model_construct(
            attempt_id=attempt_id(claim.key),
            token=claim.token,
            run_id=str(run_id),
            workspace=version.workspace,
            workflow=version.workflow,
            version=version.version,
            node=version.node_ids[node_no],
            map_index=map_index if map_index >= 0 else None,
            attempt=attempt,
            type=version.type_of(node_no),
            config=version.config(node_no),
            context=context,
            secrets={},
            limits=Limits.model_construct(
                timeout=policy.timeout,
                memory=policy.memory,
                cpu=policy.cpu,
                output_max=settings.output_max,
                log_max=settings.log_max,
                allow_private_http=settings.allow_private_http,
            ),
            bundle=version.bundle_hash,
            trace={},
        )

    def _extract(self, connection: Connection, bundle_hash: str) -> None:
        if bundle_hash in self._extracted:
            return
        if not (self._settings.bundles_dir / bundle_hash).is_dir():
            data = connection.scalar(_BUNDLE, {"hash": bundle_hash})
            if data is None:
                log.error("bundle_missing", extra={"hash": bundle_hash})
                return  # the runner reports the missing folder as the attempt's failure
            extract_bundle(bytes(data), bundle_hash, self._settings.bundles_dir)
        self._extracted.add(bundle_hash)


def _failed(claim: Claim, kind: str, message: str) -> Finished:
    error = ErrorInfo(type=kind, message=message)
    return Finished(attempt_id(claim.key), claim.token, Outcome.FAILED, None, datetime.now(UTC), None, error)
