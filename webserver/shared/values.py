"""Values that all web processes keep together in Redis (`agentflow.db.kept`)."""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import cast

from redis import Redis
from sqlalchemy import Connection, text

from webserver.ops import metrics
from webserver.shared.link import RedisAwayError, RedisLink

#: A copy of a database, or one that was restored to an earlier time, gives its ids to other things from then on. Copies of
#: files keep all of the first line, but another server runs on them; a restore into the running one makes other tables.
_IDENTITY = text("""
SELECT concat_ws('/', (SELECT system_identifier FROM pg_control_system()),
  (SELECT timeline_id FROM pg_control_checkpoint()), (SELECT oid FROM pg_database WHERE datname = current_database()),
  extract(epoch FROM pg_postmaster_start_time()), pg_relation_filenode(to_regclass('public.workflow_version')))
""")
_MAY_IDENTIFY = text("""
SELECT has_function_privilege('pg_control_system()', 'EXECUTE')
  AND has_function_privilege('pg_control_checkpoint()', 'EXECUTE')
""")


class SharedValues:
    """Of one database; knows nothing while Redis is away."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self._nobody = secrets.token_hex()  # else has this

    def get(self, connection: Connection, keys: Sequence[str]) -> list[bytes | None]:
        """What is known, in the order of the keys."""
        prefix = self.prefix(connection)
        try:
            found = self._link.ask(lambda redis: cast("list[bytes | None]", redis.mget([prefix + key for key in keys])))
        except RedisAwayError:
            return [None] * len(keys)
        misses = found.count(None)
        metrics.SHARED.labels("hit").inc(len(keys) - misses)
        metrics.SHARED.labels("miss").inc(misses)
        return found

    def put(self, connection: Connection, values: Mapping[str, bytes], seconds: float) -> None:
        """Remember for so long."""
        prefix = self.prefix(connection)

        def store(redis: Redis) -> None:
            with redis.pipeline(transaction=False) as pipeline:
                for key, value in values.items():
                    pipeline.set(prefix + key, value, px=math.ceil(1000 * seconds))
                pipeline.execute()

        with suppress(RedisAwayError):
            self._link.ask(store)

    def prefix(self, connection: Connection) -> str:
        """How keys of this database begin: asked for once by each connection, which ends with its server."""
        known = connection.info.get(__name__)
        if known is None:
            identity = connection.scalar(_IDENTITY) if connection.scalar(_MAY_IDENTIFY) else self._nobody
            known = f"agentflow:{hashlib.sha256(str(identity).encode()).hexdigest()[:16]}:"
            connection.info[__name__] = known
        return str(known)
