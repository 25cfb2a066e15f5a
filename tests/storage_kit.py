"""Short ways to stored workflows and runs, for tests of what is in the database."""

from __future__ import annotations

from sqlalchemy import text

from agentflow.catalog import apply_spec
from agentflow.runs import create_run
from agentflow.spec import parse_document
from agentflow.states import TriggeredBy


def make_spec(name="flow", *, triggers=(), nodes=None, **keys):
    """A spec of one no-op node, with these triggers and other keys."""
    document = {"name": name, "nodes": nodes or {"a": {"type": "noop"}}, **keys}
    if triggers:
        document["triggers"] = list(triggers)
    return parse_document(document)


def apply(connection, spec, *, source="api", path=None, actor="test", bundle=None):
    """Apply a spec; `{name, version, changed, created}`."""
    return apply_spec(connection, spec, source=source, source_path=path, bundle=bundle, actor=actor)


def create(connection, name="flow", params=None, **keywords):
    """Queue a run by hand; its document."""
    return create_run(connection, name, params or {}, **{"triggered_by": TriggeredBy.CLI, "actor": "test", **keywords})


def rows(connection, statement, **parameters):
    """All rows of a statement."""
    return connection.execute(text(statement), parameters).all()


def value(connection, statement, **parameters):
    """The one value of a statement."""
    return connection.scalar(text(statement), parameters)
