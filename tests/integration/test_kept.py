"""What never changes under its key is read once, by one of all the processes that share it."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from agentflow.catalog import versions
from agentflow.db.engine import make_engine
from agentflow.db.kept import Kept, share
from agentflow.runs import grid
from webserver.shared.link import RedisLink
from webserver.shared.values import SharedValues


class Process:
    """As a web process is one: its own engine, its own memory, the Redis of all."""

    def __init__(self, url, redis_url, name="thing", **options):
        self.engine = make_engine(url, pool_size=1)
        self.link = RedisLink(redis_url)
        share(self.engine, SharedValues(self.link))
        self.kept = Kept(name, **{"most": 100, "weigh": lambda _: 1, **options})
        self.read = []

    def ask(self, *keys, workspace=1):
        def read(missing):
            self.read.append(sorted(missing))
            return {key: {"of": list(key)} for key in missing}

        with self.engine.connect() as connection:
            return self.kept.many(connection, workspace, list(keys), read)

    def close(self):
        self.engine.dispose()
        self.link.close()


@pytest.fixture
def process(database_url, redis_server):
    made = []

    def make(url=database_url, **options):
        made.append(Process(url, redis_server.url, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_one_process_reads_and_the_others_have_it(process):
    one, other = process(), process()
    assert one.ask((1,), (2,)) == {(1,): {"of": [1]}, (2,): {"of": [2]}}
    assert other.ask((2,), (1,), (3,)) == {(1,): {"of": [1]}, (2,): {"of": [2]}, (3,): {"of": [3]}}
    assert (one.read, other.read) == ([[(1,), (2,)]], [[(3,)]])


def test_what_a_process_has_in_memory_it_does_not_ask_for(process, redis_server):
    one = process()
    one.ask((1,))
    redis_server.kill()
    assert one.ask((1,)) == {(1,): {"of": [1]}}
    assert not one.link.away, "it was not asked"
    assert one.read == [[(1,)]]


def test_workspaces_share_nothing(process):
    one, other = process(), process()
    one.ask((1,), workspace=1)
    other.ask((1,), workspace=2)
    assert other.read == [[(1,)]]


def test_another_database_shares_nothing(process, empty_database_url):
    one, other = process(), process(empty_database_url)
    one.ask((1,))
    other.ask((1,))
    assert other.read == [[(1,)]]


def test_a_database_that_was_restored_into_itself_shares_nothing_with_what_it_was(process):
    one = process()
    one.ask((1,))
    with one.engine.begin() as connection:  # as `pg_restore --clean` does
        connection.execute(text("DROP TABLE workflow_version CASCADE"))
        connection.execute(text("CREATE TABLE workflow_version (id int)"))
    other = process()
    other.ask((1,))
    assert other.read == [[(1,)]]


def test_copied_files_share_nothing_and_a_process_notes_that_its_server_is_another(process):
    """All that tells a server on a copy of the files, or on an older state of them, is when it began."""
    one, other = process(), process()
    one.ask((1,))
    for each in (one, other):
        each.engine.dispose()  # as the connections end with their server
        with each.engine.begin() as connection:
            connection.execute(text("CREATE SCHEMA IF NOT EXISTS later"))
            connection.execute(
                text("""
                CREATE OR REPLACE FUNCTION later.pg_postmaster_start_time() RETURNS timestamptz
                LANGUAGE sql AS $$SELECT pg_catalog.pg_postmaster_start_time() + interval '1 hour'$$""")
            )
            connection.execute(text("SET search_path = later, pg_catalog, public"))
    other.ask((1,))
    assert other.read == [[(1,)]]
    one.ask((2,))
    other.ask((2,))
    assert other.read == [[(1,)]], "they share again what they read since"


def test_kinds_share_nothing(process):
    one, other = process(), process(name="thing2")
    one.ask((1,))
    other.ask((1,))
    assert other.read == [[(1,)]]


def test_without_redis_everything_goes_on(process, redis_server):
    one, other = process(), process()
    redis_server.kill()
    assert one.ask((1,)) == other.ask((1,)) == {(1,): {"of": [1]}}
    assert one.read == other.read == [[(1,)]]
    assert one.link.away


def test_what_is_no_value_of_ours_is_read_anew(process, redis_server):
    one, other = process(decode=tuple), process(decode=tuple)
    one.ask((1,), (2,))
    with redis_server.client() as client:
        kept = sorted(key for key in client.scan_iter("*:thing:1:*"))
        client.set(kept[0], b'{"of": [')
        client.set(kept[1], b"17")
    assert set(other.ask((1,), (2,))) == {(1,), (2,)}
    assert other.read == [[(1,), (2,)]]


def test_nothing_is_shared_for_ever_nor_what_is_huge(process, redis_server, monkeypatch):
    monkeypatch.setattr("agentflow.db.kept.SHARED_MAX", 20)
    one = process()
    one.ask((1,), (10**20,))
    with redis_server.client() as client:
        kept = list(client.scan_iter("*:thing:*"))
        assert [key.rsplit(b":", 1)[1] for key in kept] == [b"1"]
        assert 0 < client.ttl(kept[0]) <= 3600


def test_memory_is_bounded_by_weight_and_gives_up_what_was_not_used(process, redis_server):
    one = process(most=5, weigh=lambda value: value["of"][0])
    for key in (1, 3, 1, 2):  # together 6: the 3 goes, which was used before the 1
        one.ask((key,))
    with redis_server.client() as client:
        client.flushall()
    one.read.clear()
    one.ask((1,), (2,))
    assert one.read == []
    one.ask((3,))
    assert one.read == [[(3,)]]
    one.ask((9,))
    one.read.clear()
    with redis_server.client() as client:
        client.flushall()
    one.ask((9,))
    assert one.read == [], "one is kept whatever it weighs"


def test_the_bytes_of_a_value_count_whether_or_not_it_is_shared(process, redis_server):
    weight = len('{"of":[1]}')
    one, other = (process(most=2 * weight, weigh=lambda _: 0, sized=True) for _ in range(2))
    for each in (one, other):  # the second has them from the first
        each.ask((1,), (2,), (3,))
    alone = Kept("alone", most=2 * weight, weigh=lambda _: 0, sized=True)
    read = []
    with redis_server.client() as client:
        client.flushall()
    for each in (one, other):
        each.read.clear()
        each.ask((2,), (3,))
        assert each.read == [], "two have room"
        each.ask((1,))
        assert each.read == [[(1,)]], "three have not"
        with redis_server.client() as client:
            client.flushall()
    engine = make_engine(one.engine.url.render_as_string(hide_password=False), pool_size=1)
    with engine.connect() as connection:  # nobody shares what is read through this one
        for key in (1, 2, 3, 3, 1):
            alone.one(connection, 1, (key,), lambda key=key: read.append(key) or {"of": [key]})
    engine.dispose()
    assert read == [1, 2, 3, 1]


def test_specs_weigh_by_their_bytes_and_an_order_without_nodes_weighs_something():
    many = {"nodes": {f"n{number}": {} for number in range(1000)}}
    assert versions._specs._weigh(many) > 1000 * versions._specs._weigh({"nodes": {}}) > 0
    assert versions._specs._sized, "a node may hold megabytes of prompts"
    assert grid._orders._weigh(()) > 0


def test_a_user_who_may_not_tell_databases_apart_shares_with_nobody(process):
    one, other = process(), process()
    with one.engine.begin() as connection:
        connection.execute(text("CREATE ROLE kept_test NOLOGIN"))
        connection.execute(text("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC"))
    try:
        for each in (one, other):
            with each.engine.connect() as connection:
                connection.execute(text("SET ROLE kept_test"))
                each.kept.one(connection, 1, (1,), lambda each=each: each.read.append(1) or {"of": [1]})
        assert one.read == other.read == [1]
    finally:
        with one.engine.begin() as connection:
            connection.execute(text("RESET ROLE"))
            connection.execute(text("GRANT EXECUTE ON FUNCTION pg_control_system() TO PUBLIC"))
            connection.execute(text("DROP ROLE kept_test"))
