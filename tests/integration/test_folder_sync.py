"""The DAG folder and the database in step: new, changed, broken, removed and returning files; rivals for the folder."""

from __future__ import annotations

import os
import shutil
import threading
from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from agentflow.catalog import delete_workflow, import_errors, list_workflows, set_paused, show_workflow
from agentflow.settings import Settings
from agentflow.settings_store import set_pool
from scheduler import folder as folder_module
from scheduler.fires import Fires
from scheduler.folder import FolderSync
from scheduler.identity import Identity
from tests.storage_kit import apply, make_spec, rows, value

YAML = """
name: {name}
triggers: [{{type: cron, cron: "0 6 * * *"}}]
nodes: {{a: {{type: noop, config: {{output: {output}}}}}}}
"""
PYTHON = """
from agentflow import node, workflow
from helper import WORD

@node
def hello():
    return WORD

@workflow(name="{name}")
def flow():
    hello()
"""


class Elsewhere(Settings):
    """The settings of a scheduler on another machine."""

    @property
    def hostname(self):
        return "elsewhere"


class Folder:
    """A DAG folder, and schedulers that read it."""

    def __init__(self, engine, path):
        self._engine = engine
        self.path = path
        path.mkdir()
        self.sync = self.scheduler().sync

    def scheduler(self, path=None, kind=Settings, **settings):
        """Another scheduler's sync."""
        return FolderSync(self._engine, kind(dags_folder=path or self.path, **settings), Identity())

    def write(self, relative, content=None, **keys):
        """Write a YAML workflow (or this content)."""
        file = self.path / relative
        file.parent.mkdir(exist_ok=True)
        keys = {"name": file.stem, "output": 1} | keys
        file.write_text(content if content is not None else YAML.format(**keys))

    def workflows(self):
        """Name -> (version, file, missing)."""
        with self._engine.begin() as connection:
            return {w["name"]: (w["version"], w["source_path"], w["missing"]) for w in list_workflows(connection)[0]}

    def errors(self):
        """File -> message."""
        with self._engine.begin() as connection:
            return {error["file"]: error["message"] for error in import_errors(connection)[0]}

    def do(self, function, *arguments, **keywords):
        """A function in a transaction."""
        with self._engine.begin() as connection:
            return function(connection, *arguments, **keywords)


@pytest.fixture
def dags(engine, tmp_path):
    return Folder(engine, tmp_path / "dags")


def test_a_new_file_is_applied_once_and_a_changed_one_makes_a_version(dags):
    dags.write("a.yaml")
    dags.write("sub/b.json", '{"name": "b", "nodes": {"x": {"type": "noop"}}}')
    assert dags.sync() == 2
    assert dags.workflows() == {"a": (1, "a.yaml", False), "b": (1, "sub/b.json", False)}
    assert dags.sync() == 0
    dags.write("a.yaml", output=2)
    assert dags.sync() == 1
    assert dags.workflows()["a"] == (2, "a.yaml", False)
    actor = "SELECT DISTINCT actor FROM audit_event WHERE subject = 'a'"
    assert dags.do(value, actor) == "file:a.yaml"


def test_the_same_content_never_makes_a_version(dags):
    dags.write("a.yaml")
    dags.sync()
    os.utime(dags.path / "a.yaml", ns=(1, 1))
    assert dags.sync() == 0
    dags.write("a.yaml", "# a comment\n" + YAML.format(name="a", output=1))
    assert dags.sync() == 1  # read again, since its bytes changed
    assert dags.scheduler().sync() == 0  # another process knows what was read
    assert dags.workflows() == {"a": (1, "a.yaml", False)}


def test_python_files_and_the_code_they_import(dags):
    dags.write("helper.py", "WORD = 'one'\n")
    dags.write("flow.py", PYTHON.format(name="py"))
    dags.write("pure.yaml")
    dags.write("uses.yaml", "name: uses\nnodes: {a: {type: python, config: {function: 'helper:main'}}}\n")
    assert dags.sync() == 3
    assert dags.workflows() == {
        "py": (1, "flow.py", False),
        "pure": (1, "pure.yaml", False),
        "uses": (1, "uses.yaml", False),
    }
    assert dags.sync() == 0
    dags.write("helper.py", "WORD = 'two'\n")
    assert dags.sync() == 2
    assert {name: version for name, (version, *_) in dags.workflows().items()} == {"py": 2, "pure": 1, "uses": 2}
    hashes = dags.do(rows, "SELECT DISTINCT bundle_hash FROM workflow_version WHERE version = 2")
    assert len(hashes) == 1
    assert dags.do(value, "SELECT count(*) FROM bundle") == 2
    assert dags.sync() == 0
    assert dags.scheduler().sync() == 0


def test_a_broken_file_is_an_import_error_until_it_is_mended(dags):
    dags.write("good.yaml")
    dags.write("bad.yaml", "name: bad\nnodes: {a: {type: noop, need: [b]}}\n")
    dags.sync()
    ((error,), _) = dags.do(import_errors)
    assert (error["file"], error["line"]) == ("bad.yaml", 2)
    assert "need" in error["message"]
    assert dags.sync() == 0
    assert dags.do(import_errors) == ([error], None)  # still the first time it was seen
    dags.write("bad.yaml")
    assert dags.sync() == 1
    assert dags.errors() == {}
    assert set(dags.workflows()) == {"good", "bad"}


def test_a_workflow_whose_file_breaks_keeps_its_last_good_version(dags):
    dags.write("a.yaml")
    dags.sync()
    dags.write("a.yaml", "name: a\nnodes: {")
    dags.sync()
    assert dags.workflows() == {"a": (1, "a.yaml", False)}
    assert "a.yaml" in dags.errors()


def test_the_error_of_a_broken_file_goes_with_the_file(dags):
    dags.write("bad.yaml", "name: bad\nnodes: 3\n")
    dags.sync()
    (dags.path / "bad.yaml").unlink()
    dags.sync()
    assert dags.errors() == {}
    assert dags.workflows() == {}


def fires(engine, now):
    """Fire what is due at this moment; the workflows that got a run."""
    service = Fires(engine, lambda: None, now=lambda _connection: now)
    service.work()
    with engine.begin() as connection:
        found = rows(connection, "SELECT w.name, r.logical_date FROM run r JOIN workflow w ON w.id = r.workflow_id")
        return [tuple(row) for row in found]


def test_a_missing_workflow_does_not_fire_and_comes_back_with_its_triggers(dags, engine):
    dags.write("a.yaml")
    dags.sync()
    dags.do(set_paused, "a", True, "test")
    dags.do(set_paused, "a", False, "test")
    triggers = "SELECT id, identity, active, paused FROM trigger"
    before = dags.do(rows, triggers)
    due = dags.do(value, "SELECT next_fire_at FROM trigger")
    (dags.path / "a.yaml").unlink()
    dags.sync()
    assert dags.workflows() == {"a": (1, "a.yaml", True)}
    assert fires(engine, due) == []
    # As if no scheduler had run meanwhile: the fires of that time are not made up either.
    dags.do(lambda c: c.execute(text("UPDATE trigger SET next_fire_at = '2020-01-01T06:00:00Z'")))
    dags.write("a.yaml")
    assert dags.sync() == 1
    assert dags.workflows() == {"a": (1, "a.yaml", False)}
    assert dags.do(rows, triggers) == before
    assert dags.do(value, "SELECT next_fire_at FROM trigger") == due
    assert fires(engine, datetime.now(UTC)) == []
    assert fires(engine, due) == [("a", due)]


def test_a_missing_workflow_may_be_deleted_and_made_again(dags):
    dags.write("a.yaml")
    dags.sync()
    (dags.path / "a.yaml").unlink()
    dags.sync()
    dags.do(delete_workflow, "a", "test")
    assert dags.workflows() == {}
    dags.write("a.yaml")
    dags.sync()
    assert dags.workflows() == {"a": (1, "a.yaml", False)}


TWO = "from agentflow import node, workflow\n" + "".join(
    f"\n@workflow(name='{name}')\ndef {name}():\n    node.noop('x')\n" for name in ("one", "two")
)


def test_a_workflow_that_leaves_its_file_is_missing_and_stays_so(dags):
    dags.write("both.py", TWO)
    dags.sync()
    assert set(dags.workflows()) == {"one", "two"}
    dags.write("both.py", TWO[: TWO.index("@workflow(name='two')")])
    for _ in range(3):
        dags.sync()
        assert dags.workflows() == {"one": (1, "both.py", False), "two": (1, "both.py", True)}
    dags.write("both.py", TWO)
    dags.sync()
    assert dags.workflows()["two"] == (1, "both.py", False)


def test_a_renamed_file_takes_its_workflow_along(dags):
    dags.write("z.yaml", name="flow")
    dags.sync()
    clock = dags.do(rows, "SELECT id, next_fire_at FROM trigger")
    (dags.path / "z.yaml").rename(dags.path / "a.yaml")
    dags.sync()
    assert dags.workflows() == {"flow": (1, "a.yaml", False)}
    assert dags.errors() == {}
    assert dags.do(rows, "SELECT id, next_fire_at FROM trigger") == clock
    assert dags.sync() == 0


def test_a_name_taken_by_another_file_is_the_newcomer_s_error_until_it_is_free(dags):
    dags.write("b.yaml", name="flow")
    dags.sync()
    dags.write("a.yaml", name="flow", output=2)
    dags.sync()
    assert dags.workflows() == {"flow": (1, "b.yaml", False)}
    assert list(dags.errors()) == ["a.yaml"]
    assert "b.yaml" in dags.errors()["a.yaml"]
    assert dags.sync() == 0  # not read again, only tried again
    assert dags.scheduler().sync() == 1  # by another process
    assert list(dags.errors()) == ["a.yaml"]
    (dags.path / "b.yaml").unlink()
    dags.sync()
    assert dags.workflows() == {"flow": (2, "a.yaml", False)}
    assert dags.errors() == {}


def test_a_name_taken_by_apply_is_the_file_s_error(dags):
    dags.do(apply, make_spec("flow"))
    dags.write("a.yaml", name="flow")
    dags.write("other.yaml")
    dags.sync()
    assert dags.do(show_workflow, "flow")["source"] == "api"
    assert "apply" in dags.errors()["a.yaml"]
    assert "other" in dags.workflows()
    dags.do(delete_workflow, "flow", "test")
    dags.sync()
    assert dags.workflows()["flow"] == (1, "a.yaml", False)
    assert dags.errors() == {}


def test_a_pool_made_later_mends_the_file_that_waited_for_it(dags):
    dags.write("a.yaml", "name: a\nnodes: {x: {type: noop, pool: gpu}}\n")
    dags.sync()
    assert "agentflow pools set gpu" in dags.errors()["a.yaml"]
    dags.do(set_pool, "gpu", 1, actor="test")
    dags.sync()
    assert dags.errors() == {}
    assert dags.workflows() == {"a": (1, "a.yaml", False)}


def test_one_bad_workflow_of_a_python_file_leaves_its_others(dags):
    dags.do(apply, make_spec("two"))
    dags.write("both.py", TWO)
    dags.sync()
    assert dags.workflows()["one"] == (1, "both.py", False)
    assert "two" in dags.errors()["both.py"]


def test_a_file_that_the_database_refuses_does_not_stop_the_others(dags, monkeypatch):
    real = folder_module.apply_spec

    def refuse(connection, spec, **keywords):
        if spec.name == "a":
            connection.execute(text("SELECT 1/0"))
        return real(connection, spec, **keywords)

    monkeypatch.setattr(folder_module, "apply_spec", refuse)
    for name in ("a.yaml", "b.yaml"):
        dags.write(name)
    dags.sync()
    assert dags.workflows() == {"b": (1, "b.yaml", False)}
    assert "division by zero" in dags.errors()["a.yaml"]
    monkeypatch.undo()
    dags.sync()
    assert set(dags.workflows()) == {"a", "b"}
    assert dags.errors() == {}


def test_a_folder_that_cannot_be_read_leaves_everything_as_it_is(dags):
    dags.write("a.yaml")
    dags.sync()
    dags.path.rename(dags.path.with_name("away"))
    dags.sync()
    assert dags.workflows() == {"a": (1, "a.yaml", False)}
    assert "cannot be read" in dags.errors()[str(dags.path)]
    dags.path.with_name("away").rename(dags.path)
    assert dags.sync() == 0
    assert dags.errors() == {}


def test_no_default_folder_is_no_error(engine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert FolderSync(engine, Settings(home=tmp_path / "home"), Identity()).sync() == 0
    with engine.begin() as connection:
        assert import_errors(connection) == ([], None)
        assert value(connection, "SELECT count(*) FROM dag_folder") == 0


def test_two_folders_are_an_import_error_and_the_first_one_stays(dags, tmp_path):
    dags.write("a.yaml")
    dags.sync()
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.yaml").write_text(YAML.format(name="a", output=2))
    second = dags.scheduler(other)
    for _ in range(3):
        assert second.sync() == 0
        assert dags.sync() == 0
    assert dags.workflows() == {"a": (1, "a.yaml", False)}
    ((file, message),) = dags.errors().items()
    assert file.endswith(str(other))
    assert message.startswith("two folders: ")
    assert str(dags.path) in message
    # The second scheduler gave up: its complaint goes when it was not repeated for a while.
    dags.do(lambda c: c.execute(text("UPDATE source_file SET seen_at = seen_at - interval '1 hour'")))
    dags.sync()
    assert dags.errors() == {}


def test_the_folder_of_a_scheduler_that_is_gone_is_taken_over(dags, tmp_path):
    dags.write("a.yaml")
    dags.sync()
    other = tmp_path / "other"
    other.mkdir()
    (other / "b.yaml").write_text(YAML.format(name="b", output=2))
    dags.do(lambda c: c.execute(text("UPDATE dag_folder SET seen_at = seen_at - interval '1 hour'")))
    assert dags.scheduler(other).sync() == 1
    assert dags.workflows() == {"a": (1, "a.yaml", True), "b": (1, "b.yaml", False)}
    assert dags.errors() == {}


def test_the_same_files_on_another_machine_stand_by_without_an_error(dags, tmp_path):
    dags.write("a.yaml")
    dags.write("uses.yaml", "name: uses\nnodes: {a: {type: python, config: {function: 'helper:main'}}}\n")
    dags.write("bad.yaml", "name: bad\nnodes: 3\n")
    dags.sync()
    replica = tmp_path / "replica"
    shutil.copytree(dags.path, replica)
    second = dags.scheduler(replica, Elsewhere)
    assert second.sync() == 0
    assert list(dags.errors()) == ["bad.yaml"]
    (replica / "a.yaml").write_text(YAML.format(name="a", output=2))  # it is behind or ahead for a moment
    second.sync()
    assert any(message.startswith("two folders: ") for message in dags.errors().values())
    dags.write("a.yaml", output=2)
    dags.sync()
    second.sync()
    assert list(dags.errors()) == ["bad.yaml"]
    assert dags.workflows()["a"] == (2, "a.yaml", False)


def test_schedulers_that_sync_at_once_make_no_more_versions_than_there_are_contents(dags):
    for name in "abcdef":
        dags.write(f"{name}.yaml")
    syncs = [dags.scheduler().sync for _ in range(3)]
    barrier, errors = threading.Barrier(3), []

    def work(sync):
        barrier.wait(30)
        try:
            for _ in range(5):
                sync()
        except Exception as error:  # noqa: BLE001 - shown by the assert below
            errors.append(error)

    threads = [threading.Thread(target=work, args=(sync,)) for sync in syncs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert {name: version for name, (version, *_) in dags.workflows().items()} == dict.fromkeys("abcdef", 1)


def test_while_one_scheduler_reads_the_folder_others_leave_it_alone(dags, monkeypatch):
    dags.write("a.yaml")
    reading, go_on = threading.Event(), threading.Event()
    real = folder_module.load_source

    def slow(file, **keywords):
        reading.set()
        assert go_on.wait(30)
        return real(file)

    monkeypatch.setattr(folder_module, "load_source", slow)
    thread = threading.Thread(target=dags.sync)
    thread.start()
    assert reading.wait(30)
    assert dags.scheduler().sync() == 0
    go_on.set()
    thread.join(30)
    assert dags.workflows() == {"a": (1, "a.yaml", False)}
    monkeypatch.undo()
    dags.write("a.yaml", output=2)
    assert dags.scheduler().sync() == 1  # the lock is free again


def test_a_file_with_a_colon_in_its_name_goes_missing_like_any_other(dags):
    dags.write("a:b.yaml", name="colon")
    dags.sync()
    (dags.path / "a:b.yaml").unlink()
    dags.sync()
    assert dags.workflows() == {"colon": (1, "a:b.yaml", True)}
