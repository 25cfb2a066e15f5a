"""The fixtures of conftest: every test gets a migrated database of its own."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, text

from agentflow.db import migrate


@pytest.mark.parametrize("_round", range(4))
def test_each_test_has_an_empty_migrated_database_of_its_own(engine: Engine, _round: int) -> None:
    with engine.begin() as connection:
        migrate.require_current(connection)
        assert connection.execute(text("SELECT to_regclass('left_by_another_test')")).scalar() is None
        connection.execute(text("CREATE TABLE left_by_another_test ()"))


def test_the_empty_database_has_no_schema(empty_database_url: str) -> None:
    migrate.upgrade(empty_database_url)
