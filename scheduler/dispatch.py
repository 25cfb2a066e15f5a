"""Claim -> workloads: what a claimed node run needs to run, put into one document."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from agentflow import correlation
from agentflow.bundles import extract_bundle
from agentflow.db.queries.attempts import attempt_id
from agentflow.db.queries.claims import Claim
from agentflow.db.queries.deferrals import Carried, carried
from agentflow.errors import AgentFlowError
from agentflow.settings import Settings
from agentflow.workload import FIRST_TURN, ConnectionFields, ErrorInfo, Finished, Limits, Outcome, Workload
from scheduler.contexts import TOO_LARGE, Asking, ContextLoader
from scheduler.inputs import Wanted
from scheduler.versions import LoadedVersion, VersionCache

if TYPE_CHECKING:
    from agentflow.secrets import Vault

log = logging.getLogger(__name__)

Revealed = TypeVar("Revealed", str, ConnectionFields)

_FIRST = Carried(FIRST_TURN, 0.0)
_BUNDLE = text("SELECT data FROM bundle WHERE hash = :hash")


@dataclass(slots=True)
class Built:
    """What came of some claims."""

    workloads: list[Workload] = field(default_factory=list)
    failed: list[Finished] = field(default_factory=list)
    large: dict[str, Wanted] = field(default_factory=dict)  #: By attempt: inputs to be fetched first.

    def add(self, other: Built) -> None:
        """Take over what came of others."""
        self.workloads += other.workloads
        self.failed += other.failed
        self.large |= other.large


class TimeIsUp(Exception):
    """The attempt's timeout struck while it was deferred."""


class Dispatcher:
    """Builds workloads. For the loop's thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._versions = VersionCache()
        self._contexts = ContextLoader()
        self._extracted: set[str] = set()

    def build(self, connection: Connection, claims: Sequence[Claim]) -> Built:
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
                end = _failed(claims[0], type(error).__name__, f"the attempt could not be prepared: {error}")
                return Built(failed=[end])
            built = Built()
            for claim in claims:
                built.add(self.build(connection, [claim]))
            return built

    def _build(self, connection: Connection, claims: Sequence[Claim]) -> Built:
        found = self._versions.get_all(connection, (claim.version_id for claim in claims))
        versions = [found[claim.version_id] for claim in claims]
        asking = [
            Asking(claim.key[0], version, version.policy(claim.key[1]).references, claim.key[1], claim.key[2])
            for claim, version in zip(claims, versions, strict=True)
        ]
        revealed = self._reveal(connection, asking)
        links = self._connections(connection, asking)
        turns = carried(connection, [claim.key for claim in claims if claim.carries])
        built = Built()
        contexts = self._contexts.load(connection, asking)
        for claim, ask, loaded in zip(claims, asking, contexts, strict=True):
            version = ask.version
            if loaded is None:
                built.failed.append(_failed(claim, "InputTooLarge", TOO_LARGE))
                continue
            try:
                if version.bundle_hash is not None:
                    self._extract(connection, version.bundle_hash)
                turn = turns.get(claim.key, _FIRST)
                secrets = _all_of(ask, ask.references.secrets, revealed)
                connections = _all_of(ask, ask.version.connections(claim.key[1]), links)
                workload = self._workload(claim, version, loaded.context, secrets, connections, turn)
            except TimeIsUp as error:
                built.failed.append(_failed(claim, "Timeout", str(error)))
                continue
            except (AgentFlowError, OSError) as error:
                hint = f" ({error.hint})" if isinstance(error, AgentFlowError) and error.hint else ""
                message = f"the attempt could not be prepared: {error}{hint}"
                built.failed.append(_failed(claim, type(error).__name__, message))
                continue
            built.workloads.append(workload)
            if loaded.large:
                built.large[workload.attempt_id] = loaded.large
        return built

    def _reveal(self, connection: Connection, asking: Sequence[Asking]) -> dict[tuple[int, str], str | AgentFlowError]:
        """The secrets that these nodes name, or why they cannot be had; most nodes name none."""
        wanted = {(ask.version.workspace_id, name) for ask in asking for name in ask.references.secrets}
        return self._vault.reveal(connection, wanted) if wanted else {}

    def _connections(
        self, connection: Connection, asking: Sequence[Asking]
    ) -> dict[tuple[int, str], ConnectionFields | AgentFlowError]:
        wanted = {(ask.version.workspace_id, name) for ask in asking for name in ask.version.connections(ask.node_no)}
        return self._vault.reveal_connections(connection, wanted) if wanted else {}

    @cached_property
    def _vault(self) -> Vault:
        from agentflow.secrets import Vault  # brings the cryptography, which few systems need at their start

        return Vault(self._settings)

    def _workload(
        self,
        claim: Claim,
        version: LoadedVersion,
        context: dict[str, object],
        secrets: dict[str, str],
        connections: dict[str, ConnectionFields],
        carried_on: Carried,
    ) -> Workload:
        run_id, node_no, map_index, attempt = claim.key
        request_id = self._contexts.request_id(run_id)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("attempt_dispatched", extra={"attempt": attempt_id(claim.key), correlation.TRACE: request_id})
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
            secrets=secrets,
            connections=connections,
            turn=carried_on.turn,
            limits=Limits.model_construct(
                timeout=_time_left(policy.timeout, carried_on),
                memory=policy.memory,
                cpu=policy.cpu,
                output_max=settings.output_max,
                log_max=settings.log_max,
                allow_private_http=settings.allow_private_http,
            ),
            bundle=version.bundle_hash,
            trace={} if request_id is None else {correlation.TRACE: request_id},
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


def _time_left(timeout: float | None, carried: Carried) -> float | None:
    """What is left of an attempt's timeout in this turn: it counts from the attempt's start, pauses included.

    Raises:
        TimeIsUp: Nothing.
    """
    if timeout is None or timeout - carried.used > 0:
        return None if timeout is None else timeout - carried.used
    raise TimeIsUp(f"did not end within its timeout of {timeout:g} s")


def _all_of(
    ask: Asking, names: Iterable[str], revealed: Mapping[tuple[int, str], Revealed | AgentFlowError]
) -> dict[str, Revealed]:
    """The secrets or connections that a node names, and no others.

    Raises:
        AgentFlowError: One does not exist, or cannot be decrypted.
    """
    found: dict[str, Revealed] = {}
    for name in sorted(names):
        value = revealed[ask.version.workspace_id, name]
        if isinstance(value, AgentFlowError):
            raise value
        found[name] = value
    return found


def _failed(claim: Claim, kind: str, message: str) -> Finished:
    error = ErrorInfo(type=kind, message=message)
    return Finished(attempt_id(claim.key), claim.token, Outcome.FAILED, None, datetime.now(UTC), None, error)
