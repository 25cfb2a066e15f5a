"""Secrets and connections: stored encrypted, set and listed by the commands, given to the attempts that name them."""

from __future__ import annotations

import io
import json
import sys

import pytest
from sqlalchemy import text

from agentflow import keys, secrets
from agentflow.cli import main
from agentflow.db.engine import transact
from agentflow.errors import NotFound, SecretUnreadable, UsageError
from agentflow.settings import Settings

VALUE = "correct horse battery staple"
OLD, NEW = (keys.SecretKey(f"{word}-{word * 20}") for word in ("old", "new"))


def everything(engine):
    """All rows of all tables, as text."""
    with engine.connect() as connection:
        tables = connection.scalars(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")).all()
        return "\n".join(
            f"{table}: {row}"
            for table in tables
            for row in connection.scalars(text(f'SELECT t::text FROM "{table}" AS t'))  # encode(bytea, …) as hex
        )


def hexed(value):
    return value.encode().hex()


@pytest.fixture
def do(engine):
    return lambda function, *arguments, **keywords: transact(
        engine, lambda connection: function(connection, *arguments, **keywords)
    )


def put(do, name="TOKEN", value=VALUE, ring=None, **more):
    return do(secrets.set_secret, name, value, ring=ring or keys.KeyRing([OLD]), actor="test", **more)


def vault(tmp_path, *ring):
    settings = Settings(secret_key=",".join(key.text for key in ring), home=tmp_path)
    return secrets.Vault(settings)


class TestStore:
    def test_nothing_in_the_database_shows_a_value(self, do, engine):
        put(do)
        do(
            secrets.set_connection,
            "api",
            type="http",
            config={"base_url": "https://example.org"},
            secrets={"token": VALUE},
            ring=keys.KeyRing([OLD]),
            actor="test",
        )
        stored = everything(engine)
        assert "TOKEN" in stored
        assert VALUE not in stored
        assert hexed(VALUE) not in stored

    def test_lists_tell_names_and_never_values(self, do):
        put(do)
        ((item,), _) = do(secrets.list_secrets)
        assert item.pop("updated_at").endswith("Z")
        assert item == {"name": "TOKEN", "key_id": OLD.id, "updated_by": "test"}

    def test_setting_again_replaces_and_deleting_forgets(self, do, tmp_path):
        put(do)
        put(do, value="another value")
        assert do(vault(tmp_path, OLD).reveal, [(1, "TOKEN")]) == {(1, "TOKEN"): "another value"}
        assert do(secrets.delete_secret, "TOKEN", actor="test") == {"name": "TOKEN", "changed": True}
        with pytest.raises(NotFound, match="TOKEN"):
            do(secrets.delete_secret, "TOKEN", actor="test")

    def test_what_was_done_is_in_the_audit_log_without_values(self, do, engine):
        put(do)
        do(secrets.rotate_keys, ring=keys.KeyRing([NEW, OLD]), actor="test")
        do(secrets.delete_secret, "TOKEN", actor="test")
        with engine.connect() as connection:
            rows = connection.execute(text("SELECT actor, action, subject, detail FROM audit_event ORDER BY id")).all()
        assert [tuple(row) for row in rows] == [
            ("test", "secret.set", "TOKEN", {"key_id": OLD.id}),
            ("test", "secrets.rotated", NEW.id, {"rows": 1}),
            ("test", "secret.deleted", "TOKEN", {}),
        ]

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("a b", "x" * 8, "not a name"),
            ("1a", "x" * 8, "not a name"),
            ("A" * 101, "x" * 8, "not a name"),
            ("A", "", "empty"),
            ("A", "x" * 65537, "65,537 bytes"),
            ("A", "a\0b", "NUL"),
            ("A", "a\ud800b", "not UTF-8"),
        ],
    )
    def test_a_wrong_name_or_value_is_refused_without_being_told(self, do, name, value, message):
        with pytest.raises(UsageError, match=message) as error:
            put(do, name, value)
        assert not value or value not in error.value.message

    def test_a_field_of_a_connection_is_plain_or_secret(self, do):
        with pytest.raises(UsageError, match="given twice"):
            do(
                secrets.set_connection,
                "api",
                type="http",
                config={"a": "1"},
                secrets={"a": "2"},
                ring=keys.KeyRing([OLD]),
                actor="test",
            )


class TestRotation:
    def test_moves_everything_and_the_old_key_is_not_needed_any_more(self, do, engine, tmp_path):
        put(do, "A")
        put(do, "B", ring=keys.KeyRing([NEW]))
        fields = {"type": "x", "config": {}, "secrets": {"p": VALUE}, "ring": keys.KeyRing([OLD]), "actor": "test"}
        do(secrets.set_connection, "C", **fields)
        done = do(secrets.rotate_keys, ring=keys.KeyRing([NEW, OLD]), actor="test")
        assert done == secrets.Rotation(NEW.id, 2)
        assert do(secrets.keys_in_use) == {NEW.id}
        found = do(vault(tmp_path, NEW).reveal, [(1, "A"), (1, "B")])
        assert found == {(1, "A"): VALUE, (1, "B"): VALUE}
        assert do(secrets.rotate_keys, ring=keys.KeyRing([NEW]), actor="test").rewrapped == 0

    def test_without_the_old_key_changes_nothing_and_names_the_row(self, do):
        put(do, "A")
        put(do, "B", ring=keys.KeyRing([keys.SecretKey("third-" * 8)]))
        with pytest.raises(SecretUnreadable, match="the secret `B`"):
            do(secrets.rotate_keys, ring=keys.KeyRing([NEW, OLD]), actor="test")
        assert OLD.id in do(secrets.keys_in_use)

    def test_values_are_not_touched(self, do, engine):
        put(do)
        stored = text("SELECT ciphertext, updated_at, updated_by FROM secret")
        with engine.connect() as connection:
            before = connection.execute(stored).all()
        do(secrets.rotate_keys, ring=keys.KeyRing([NEW, OLD]), actor="other")
        with engine.connect() as connection:
            assert connection.execute(stored).all() == before


class TestVault:
    def test_each_one_that_cannot_be_had_says_why_and_the_others_come(self, do, engine, tmp_path):
        put(do, "HERE")
        put(do, "OTHER_KEY", ring=keys.KeyRing([NEW]))
        put(do, "SWAPPED")
        with engine.begin() as connection:
            connection.execute(
                text("""UPDATE secret s SET ciphertext = o.ciphertext, wrapped_key = o.wrapped_key FROM secret o
                WHERE s.name = 'SWAPPED' AND o.name = 'HERE'""")
            )
        names = ["HERE", "OTHER_KEY", "SWAPPED", "MISSING", "a 'b\", {c}\\"]
        found = do(vault(tmp_path, OLD).reveal, [(1, name) for name in names])
        told = {name: value if isinstance(value, str) else value.message for (_, name), value in found.items()}
        assert told["HERE"] == VALUE
        assert f"`OTHER_KEY` was encrypted with the key {NEW.id}" in told["OTHER_KEY"]
        assert "`SWAPPED` does not decrypt" in told["SWAPPED"]
        assert told["MISSING"] == "the secret `MISSING` does not exist"
        assert "does not exist" in told[names[-1]]

    def test_without_any_key_every_secret_says_so(self, do, tmp_path):
        put(do)
        (told,) = do(vault(tmp_path).reveal, [(1, "TOKEN")]).values()
        assert isinstance(told, SecretUnreadable)
        assert "AGENTFLOW_SECRET_KEY is not set" in told.message

    def test_a_new_key_in_the_home_is_seen_at_once(self, do, tmp_path):
        keys.ensure_secret_key("", tmp_path)
        store = vault(tmp_path)
        put(do, "A", ring=keys.key_ring("", tmp_path))
        keys.add_key("", tmp_path)
        put(do, "B", ring=keys.key_ring("", tmp_path))
        assert set(do(store.reveal, [(1, "A"), (1, "B")]).values()) == {VALUE}

    def test_another_workspace_has_other_secrets(self, do, engine, tmp_path):
        with engine.begin() as connection:
            other = connection.scalar(text("INSERT INTO workspace (name) VALUES ('other') RETURNING id"))
        put(do)
        put(do, value="of the others", workspace="other")
        found = do(vault(tmp_path, OLD).reveal, [(1, "TOKEN"), (other, "TOKEN")])
        assert found == {(1, "TOKEN"): VALUE, (other, "TOKEN"): "of the others"}


@pytest.fixture
def keyed_kit(kit):
    """The engine with a key in its home and one secret."""
    keys.ensure_secret_key("", kit.settings.home)
    kit.call(secrets.set_secret, "TOKEN", VALUE, ring=keys.key_ring("", kit.settings.home), actor="test")
    kit.call(secrets.set_secret, "UNUSED", "never asked for", ring=keys.key_ring("", kit.settings.home), actor="test")
    return kit


def reads(*names):
    return {"config": {"output": [f"{{{{ secrets['{name}'] }}}}" for name in names]}}


class TestDispatch:
    def test_an_attempt_gets_the_secrets_it_names_and_no_others(self, keyed_kit):
        keyed_kit.apply({"a": reads("TOKEN"), "b": {}})
        assert keyed_kit.state(keyed_kit.run()) == "success"
        assert {w.node: w.secrets for w in keyed_kit.stub.submitted} == {"a": {"TOKEN": VALUE}, "b": {}}

    def test_a_missing_secret_fails_the_attempt_before_it_starts_and_is_named(self, keyed_kit):
        keyed_kit.apply({"a": reads("TOKEN", "MISING"), "b": {}})
        run = keyed_kit.run()
        error = keyed_kit.nodes(run)["a"]["error"]
        assert (keyed_kit.states(run), error["type"]) == ({"a": "failed", "b": "success"}, "SecretMissing")
        assert "the secret `MISING` does not exist" in error["message"]
        assert "agentflow secrets set MISING" in error["message"]
        assert keyed_kit.started() == ["b"]

    def test_a_retry_gets_the_value_that_was_set_meanwhile(self, keyed_kit):
        keyed_kit.apply({"a": {**reads("LATER"), "retries": 1, "retry_delay": "1h"}})
        run = keyed_kit.run()
        assert keyed_kit.states(run) == {"a": "retrying"}
        ring = keys.key_ring("", keyed_kit.settings.home)
        keyed_kit.call(secrets.set_secret, "LATER", "in time", ring=ring, actor="test")
        assert keyed_kit.finish(run) == "success"
        assert keyed_kit.stub.submitted[-1].secrets == {"LATER": "in time"}

    def test_a_secret_under_a_key_that_is_gone_fails_the_attempt_and_says_what_to_do(self, keyed_kit):
        (old,) = keys.key_ring("", keyed_kit.settings.home).ids
        keys.key_file(keyed_kit.settings.home).write_text(NEW.text)
        keyed_kit.apply({"a": reads("TOKEN")})
        error = keyed_kit.nodes(keyed_kit.run())["a"]["error"]
        assert error["type"] == "SecretUnreadable"
        assert old in error["message"]
        assert "AGENTFLOW_SECRET_KEY=NEW,OLD" in error["message"]

    def test_no_table_ever_holds_the_value(self, keyed_kit):
        keyed_kit.apply({"a": reads("TOKEN"), "b": {**reads("TOKEN", "MISSING"), "retries": 2}})
        run = keyed_kit.run()
        keyed_kit.finish(run)
        stored = everything(keyed_kit.engine)
        assert VALUE not in stored
        assert hexed(VALUE) not in stored
        assert VALUE not in repr(keyed_kit.stub.submitted)


class Shell:
    """Runs command lines in this process, with something on standard input."""

    def __init__(self, capsys, monkeypatch):
        self._capsys, self._monkeypatch = capsys, monkeypatch

    def __call__(self, *arguments, stdin="", code=0):
        self._monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode("utf-8", "surrogateescape"))))
        self._capsys.readouterr()
        found = main.main(list(arguments))
        captured = self._capsys.readouterr()
        assert found == code, captured.out + captured.err
        self.notes = captured.err
        assert VALUE not in captured.out + captured.err
        return captured.out

    def json(self, *arguments, **keywords):
        return json.loads(self(*arguments, "--json", **keywords))


@pytest.fixture
def cli(database_url, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AGENTFLOW_DATABASE_URL", database_url)
    monkeypatch.setenv("AGENTFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AGENTFLOW_SECRET_KEY", OLD.text)
    return Shell(capsys, monkeypatch)


class TestCommands:
    @pytest.mark.parametrize(
        ("given", "kept"),
        [("one line\n", "one line"), ("one line\r\n", "one line"), ("two\nlines\n", "two\nlines\n"), ("bare", "bare")],
    )
    def test_a_single_line_loses_its_end_and_several_are_kept(self, cli, do, tmp_path, given, kept):
        assert cli.json("secrets", "set", "PIPED", stdin=given) == {"name": "PIPED", "changed": True}
        (tmp_path / "value").write_bytes(given.encode())
        cli("secrets", "set", "FILED", "--from-file", "value")
        found = do(vault(tmp_path, OLD).reveal, [(1, "PIPED"), (1, "FILED")])
        assert set(found.values()) == {kept}

    def test_list_delete_and_what_they_print(self, cli):
        assert cli.json("secrets", "list") == {"items": [], "next_cursor": None}
        assert cli("secrets", "set", "TOKEN", stdin=VALUE) == "TOKEN set\n"
        (item,) = cli.json("secrets", "list")["items"]
        assert (item["name"], item["key_id"], sorted(item)) == (
            "TOKEN", OLD.id, ["key_id", "name", "updated_at", "updated_by"],
        )  # fmt: skip
        assert "TOKEN" in cli("secrets", "list")
        assert cli.json("secrets", "delete", "TOKEN") == {"name": "TOKEN", "changed": True}
        assert cli.json("secrets", "delete", "TOKEN", code=1)["error"]["type"] == "not-found"

    @pytest.mark.parametrize(
        ("arguments", "stdin", "code", "says"),
        [
            (["secrets", "set", "a b"], VALUE, 2, "not a name for a secret"),
            (["secrets", "set", "A"], "", 2, "empty"),
            (["secrets", "set", "A"], "\udcff", 2, "base64"),
            (["secrets", "set", "A", "--from-file", "gone"], "", 1, "No such file"),
            (["secrets", "set", "A", "value"], "", 2, "unexpected extra argument"),
            (["connections", "set", "a", "--type", "http", "--secret", "k=v"], "", 2, "`ps`"),
            (["connections", "set", "a", "--type", "http", "--secret", "k", "--secret", "l"], "v", 2, "cannot both"),
            (["connections", "set", "a", "--type", "http", "--field", "k"], "", 2, "NAME=VALUE"),
            (["secrets", "rotate-keys", "--new-key"], "", 2, "every machine"),
        ],
    )
    def test_mistakes_are_told_and_nothing_is_stored(self, cli, do, arguments, stdin, code, says):
        error = cli.json(*arguments, stdin=stdin, code=code)["error"]
        assert says in " ".join([error["detail"], error.get("hint", "")])
        assert (do(secrets.list_secrets), do(secrets.list_connections)) == (([], None), ([], None))

    def test_a_short_value_is_warned_of(self, cli):
        cli("secrets", "set", "A", stdin="abc")
        assert "cannot be masked" in cli.notes
        cli("secrets", "set", "A", stdin="abcdef")
        assert "is short" in cli.notes
        cli("secrets", "set", "A", stdin="long enough")
        assert cli.notes == ""

    def test_an_external_database_without_a_key_is_refused(self, cli, monkeypatch):
        monkeypatch.delenv("AGENTFLOW_SECRET_KEY")
        error = cli.json("secrets", "set", "A", stdin=VALUE, code=2)["error"]
        assert error["type"] == "settings"
        assert "AGENTFLOW_SECRET_KEY" in error["detail"]

    def test_rotation_with_the_new_key_in_front(self, cli, monkeypatch):
        cli("secrets", "set", "A", stdin=VALUE)
        monkeypatch.setenv("AGENTFLOW_SECRET_KEY", NEW.text)
        error = cli.json("secrets", "rotate-keys", code=1)["error"]
        assert (error["type"], OLD.id in error["detail"]) == ("secret-unreadable", True)
        monkeypatch.setenv("AGENTFLOW_SECRET_KEY", f"{NEW.text},{OLD.text}")
        done = cli.json("secrets", "rotate-keys")
        assert done == {"id": NEW.id, "changed": True, "rewrapped": 1, "unused": [OLD.id]}
        assert cli.json("secrets", "rotate-keys")["changed"] is False
        assert OLD.id in (cli("secrets", "rotate-keys") and cli.notes)

    def test_a_connection_is_listed_without_its_secret_fields_values(self, cli, tmp_path):
        (tmp_path / "password").write_text(VALUE + "\n")
        changed = cli.json(
            "connections", "set", "db", "--type", "postgres", "--field", "host=h", "--field", "options=a=b",
            "--secret", "password=@password", "--secret", "token", stdin=VALUE,
        )  # fmt: skip
        assert changed == {"name": "db", "changed": True}
        (item,) = cli.json("connections", "list")["items"]
        assert item["config"] == {"host": "h", "options": "a=b"}
        assert (item["type"], item["secret_fields"]) == ("postgres", ["password", "token"])
        assert sorted(item) == ["config", "name", "secret_fields", "type", "updated_at", "updated_by"]
        assert "password, token" in cli("connections", "list")
        cli("connections", "set", "db", "--type", "postgres", "--field", "host=other")
        (item,) = cli.json("connections", "list")["items"]
        assert (item["config"], item["secret_fields"]) == ({"host": "other"}, [])
        assert cli.json("connections", "delete", "db") == {"name": "db", "changed": True}
        assert cli.json("connections", "delete", "db", code=1)["error"]["type"] == "not-found"

    def test_doctor_tells_a_key_that_is_not_here_and_one_to_be_rotated(self, cli, monkeypatch):
        def told():
            checks = json.loads(cli("doctor", "--json", code=expected))["checks"]
            return next((check["status"], check["detail"]) for check in checks if check["name"] == "secret key")

        cli("secrets", "set", "A", stdin=VALUE)
        expected = 0
        assert told() == ("ok", OLD.id)
        monkeypatch.setenv("AGENTFLOW_SECRET_KEY", f"{NEW.text},{OLD.text}")
        assert told()[0] == "warning"
        monkeypatch.setenv("AGENTFLOW_SECRET_KEY", NEW.text)
        expected = 1
        assert told() == ("failed", f"secrets are under the key {OLD.id}; here: {NEW.id}")

    def test_config_tells_only_that_there_is_a_key(self, cli):
        items = {item["name"]: item for item in cli.json("config")["items"]}
        assert items["AGENTFLOW_SECRET_KEY"]["value"] == "***"
        assert OLD.text not in repr(Settings(secret_key=OLD.text))
