from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from agentflow.bundles import build_bundle
from agentflow.errors import FileNotReadable, ImportFailed, SpecError, UsageError
from agentflow.loader import (
    ChildLimits,
    FolderReader,
    bundle_root,
    load_python,
    load_source,
    load_workflow,
    load_workflows,
    scan_folder,
)

GOOD = """
    from agentflow import node, workflow

    @node
    def load(n: int) -> int:
        return n

    @workflow
    def good(n: int = 1):
        load(n)
"""
YAML = "name: report\nnodes:\n  a: {type: noop}\n"

#: Long enough for a file that is merely slow on a busy machine, short enough for a test.
BRIEF = ChildLimits(timeout=3.0, memory=400 * 2**20)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(content))
    return root


def load_text(folder: Path, text: str, *, name: str = "bad.py", limits: ChildLimits = BRIEF):
    """The result of one file alone in a folder."""
    write(folder, {name: text})
    (source,) = [source for source in scan_folder(folder) if source.relative == name]
    return load_source(source, limits=limits)


def python(body: str) -> str:
    """A file that the scan takes for a workflow file."""
    return "from agentflow import node, workflow\n" + textwrap.dedent(body)


BAD_FILES = {
    # what it does: (text, what the message says, line)
    "raises": ("x = 1\nraise ValueError('no such table')", "ValueError: no such table", 3),
    "divides by zero two calls deep": ("def f():\n    return 1 / 0\nf()", "ZeroDivisionError", 3),
    "does not parse": ("def f(:\n    pass", "SyntaxError", 2),
    "imports what is not there": ("import no_such_module_here", "ModuleNotFoundError", 2),
    "calls sys.exit": ("import sys\nsys.exit(3)", r"calls exit\(3\)", 3),
    "raises SystemExit without a code": ("raise SystemExit", r"calls exit\(\)", 2),
    "interrupts": ("raise KeyboardInterrupt", "KeyboardInterrupt", 2),
    "calls os._exit": ("import os\nos._exit(7)", "exit code 7", None),
    "calls os._exit(0)": ("import os\nos._exit(0)", "exit code 0", None),
    "closes every file": ("import os\nos.closerange(0, 4096)\nos._exit(0)", "exit code 0", None),
    "aborts": ("import os\nos.abort()", "SIGABRT", 3),
    "is a segmentation fault": ("import ctypes\nctypes.string_at(0)", "SIGSEGV", 3),
    "kills itself": ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "SIGKILL", None),
    "loops for ever": ("x = 0\nwhile True:\n    x += 1", "did not end within 3 s", None),
    "hangs in C with the interpreter's lock": ("import ctypes\nctypes.PyDLL(None).sleep(600)", "did not end within", 3),
    "ignores signals and waits": (
        "import signal, threading\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nthreading.Event().wait()",
        "did not end within",
        4,
    ),
    "prints for ever": ("while True:\n    print('x' * 10000)", "did not end within", 3),
    "reads from the terminal": ("input('name? ')", "EOFError", 2),
    "needs too much memory": ("x = bytearray(2**30)", "needs more memory", 2),
    "recurses for ever": ("def f():\n    return f()\nf()", "RecursionError", 3),
    "asks the body for a value": (
        "@workflow\ndef w():\n    a = node.noop('a')\n    if a: pass",
        "cannot decide on nodes.a.output",
        5,
    ),
    "draws what is not valid": (
        "@workflow\ndef w():\n    node.noop('a')\n\n    node.noop('b', ouput='x')",
        "ouput",
        6,
    ),
    "draws a cycle": (
        "@workflow\ndef w():\n    a = node.noop('a')\n    b = node.noop('b')\n    a >> b >> a",
        "cycle",
        None,
    ),
    "has a name twice": (
        "@workflow\ndef w():\n    node.noop('a')\n\n@workflow(name='w')\ndef v():\n    node.noop('a')",
        "`w` is used twice",
        6,
    ),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_python_file_is_a_problem_with_its_reason_and_line(kind, tmp_path):
    text, says, line = BAD_FILES[kind]
    start = time.monotonic()
    result = load_text(tmp_path, python(text))
    assert time.monotonic() - start < BRIEF.timeout + 20
    (problem,) = result.problems
    assert problem.file == "bad.py"
    assert (result.specs == ()) or kind == "has a name twice"
    assert re.search(says, problem.message), problem
    if line is not None:
        assert problem.line == line, problem


def test_the_traceback_shows_the_users_frames_only_and_the_end_of_what_it_printed(tmp_path):
    write(tmp_path, {"helper.py": "def boom():\n    raise RuntimeError('deep')\n"})
    result = load_text(tmp_path, python("print('y' * 100_000, 'the end')\nimport helper\nhelper.boom()"))
    (problem,) = result.problems
    assert problem.line == 4
    assert problem.traceback is not None
    assert problem.traceback.count("File ") == 2
    assert "helper.py" in problem.traceback
    assert "importlib" not in problem.traceback
    assert problem.printed.endswith("the end\n")
    assert len(problem.printed) <= 8192


def test_garbage_on_every_stream_does_not_disturb_a_good_file(tmp_path):
    noise = "import os, sys\nos.write(1, bytes(range(256)) * 100)\nos.write(2, b'\\x1e{}')\nsys.stdout = None\n"
    result = load_text(tmp_path, python(noise + "@workflow\ndef w():\n    node.noop('a')"))
    assert result.problems == ()
    assert [spec.name for spec in result.specs] == ["w"]


def test_threads_and_exit_handlers_of_a_file_do_not_hold_up_reading_it(tmp_path):
    text = """
        import atexit, threading
        threading.Thread(target=threading.Event().wait).start()
        atexit.register(threading.Event().wait)
        @workflow
        def w():
            node.noop('a')
    """
    assert load_text(tmp_path, python(text)).problems == ()


def test_processes_that_a_file_starts_end_with_it(tmp_path):
    marker = tmp_path / "pid"
    text = f"""
        import subprocess
        child = subprocess.Popen(["sleep", "600"])
        open({str(marker)!r}, "w").write(str(child.pid))
        @workflow
        def w():
            node.noop('a')
    """
    assert load_text(tmp_path, python(text)).problems == ()
    assert _ends(int(marker.read_text()))


def test_the_child_ends_with_its_parent(tmp_path):
    pid = tmp_path / "pid"
    text = f"import os, threading\nopen({str(pid)!r}, 'w').write(str(os.getpid()) + '.')\nthreading.Event().wait()"
    write(tmp_path, {"bad.py": python(text)})
    code = f"from pathlib import Path; from agentflow.loader import load_python; load_python(Path({str(tmp_path)!r}) / 'bad.py')"
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        _until(lambda: pid.exists() and pid.read_text().endswith("."))
        parent.kill()
    assert _ends(int(pid.read_text()[:-1]))


def test_a_file_sees_no_secrets_of_the_process_that_reads_it(tmp_path, monkeypatch):
    monkeypatch.setenv("AGENTFLOW_DATABASE_URL", "postgresql://u:hunter2@h/d")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    text = "import os\nassert 'hunter2' not in str(dict(os.environ)), 'leak'\nassert not os.listdir('.')\n"
    assert load_text(tmp_path, python(text)).problems == ()


def test_the_order_of_a_set_does_not_make_new_versions(tmp_path):
    text = python("@workflow\ndef w():\n    for x in {'a', 'b', 'c', 'd', 'e', 'f'}:\n        node.noop(x)")
    first, second = (load_text(tmp_path, text).specs[0] for _ in range(2))
    assert list(first.nodes) == list(second.nodes)


def test_reading_leaves_no_trace_in_the_folder(tmp_path):
    write(tmp_path, {"helper.py": "X = 1\n", "good.py": "import helper\n" + textwrap.dedent(GOOD)})
    before = sorted(tmp_path.rglob("*"))
    assert load_python(tmp_path / "good.py")
    assert sorted(tmp_path.rglob("*")) == before


def test_functions_are_named_by_their_path_below_the_root(tmp_path):
    helper = "from agentflow import node\n\n@node\ndef clean(n):\n    return n\n"
    text = "from lib.tools import clean\n" + textwrap.dedent(GOOD) + "    clean(n)\n"
    write(tmp_path, {"lib/tools.py": helper, "team/etl.py": text, "lib/__init__.py": ""})
    (spec,) = load_python(tmp_path / "team" / "etl.py", root=tmp_path)
    assert spec.nodes["load"].config["function"] == "team.etl:load"
    assert spec.nodes["clean"].config["function"] == "lib.tools:clean"


def test_a_folder_may_be_named_relative_to_the_working_directory(tmp_path, monkeypatch):
    write(tmp_path, {"dags/good.py": GOOD})
    monkeypatch.chdir(tmp_path)
    assert [load_source(source).problems for source in scan_folder(Path("dags"))] == [()]
    assert load_python(Path("dags/good.py"), root=Path("dags"))


def test_workflows_made_in_a_loop_count_and_imported_ones_do_not(tmp_path):
    write(tmp_path, {"good.py": GOOD})
    text = """
        from good import good
        def make(name):
            @workflow(name=name)
            def made():
                node.noop("a")
            return made
        for city in ("berlin", "rome"):
            globals()[city] = make(city)
        alias = berlin
    """
    assert [spec.name for spec in load_text(tmp_path, python(text)).specs] == ["berlin", "rome"]


def test_one_bad_workflow_leaves_the_others_of_its_file(tmp_path):
    text = "@workflow\ndef one():\n    node.noop('a')\n\n@workflow\ndef two():\n    node.nope('a')\n"
    result = load_text(tmp_path, python(text))
    assert [spec.name for spec in result.specs] == ["one"]
    assert [problem.line for problem in result.problems] == [8]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("json.py", "rename `json`"),
        ("agentflow.py", "rename `agentflow`"),
        ("email/x.py", "rename `email`"),
        ("a.b.py", "dots"),
        ("__init__.py", "__init__.py cannot hold"),
    ],
)
def test_file_names_that_cannot_be_imported_are_refused(name, says, tmp_path):
    (problem,) = load_text(tmp_path, GOOD, name=name).problems
    assert says in problem.message


def test_a_file_may_have_the_name_of_one_of_our_other_packages(tmp_path):
    (spec,) = load_text(tmp_path, GOOD, name="scheduler.py").specs
    assert spec.nodes["load"].config["function"] == "scheduler:load"


def test_a_file_name_with_a_dash_holds_workflows_but_no_functions(tmp_path):
    assert load_text(tmp_path, python("@workflow\ndef w():\n    node.noop('a')"), name="my-flow.py").specs
    (problem,) = load_text(tmp_path, GOOD, name="my-etl.py").problems
    assert "Rename the file" in (problem.hint or "")


def test_bad_yaml_and_json_files_are_problems_too(tmp_path):
    write(tmp_path, {"bad.yaml": "name: x\nnodes:\n  a: {type: nope}\n", "bad.json": '{"nodes": {', "ok.yml": YAML})
    results = {source.relative: load_source(source) for source in scan_folder(tmp_path)}
    assert {name: len(result.specs) for name, result in results.items()} == {"bad.json": 0, "bad.yaml": 0, "ok.yml": 1}
    assert "nope" in results["bad.yaml"].problems[0].message
    assert results["bad.yaml"].problems[0].line == 3
    assert results["bad.json"].problems


def test_the_scan_takes_workflow_files_and_leaves_data_helpers_and_ignored_ones(tmp_path):
    write(
        tmp_path,
        {
            "good.py": GOOD,
            "team/report.yaml": YAML,
            "flow.json": '{"name": "x", "nodes": {}}',
            "lib/helper.py": "import os\n",
            "lib/nodes.py": "from agentflow import node\n",
            "data/rows.json": '[{"name": "x"}]',
            "data/settings.yaml": "colour: red\n",
            "notes.md": "nodes: workflow\n",
            "old/report.yaml": YAML,
            ".hidden/report.yaml": YAML,
            "__pycache__/good.py": GOOD,
            ".agentflowignore": "old/\n",
        },
    )
    assert [(source.relative, source.kind) for source in scan_folder(tmp_path)] == [
        ("flow.json", "json"),
        ("good.py", "python"),
        ("team/report.yaml", "yaml"),
    ]


def test_fingerprints_change_with_what_the_file_can_become(tmp_path):
    write(tmp_path, {"good.py": GOOD, "report.yaml": YAML, "lib/helper.py": "x = 1\n"})
    reader = FolderReader(tmp_path)

    def prints():
        return {source.relative: source.fingerprint for source in reader.scan().files}

    first = prints()
    assert prints() == first
    write(tmp_path, {"lib/helper.py": "x = 2\n"})
    second = prints()
    assert second["report.yaml"] == first["report.yaml"]
    assert second["good.py"] != first["good.py"]
    write(tmp_path, {"report.yaml": YAML + "# note\n"})
    third = prints()
    assert third["report.yaml"] != second["report.yaml"]
    assert third["good.py"] == second["good.py"]


def test_settled_files_are_not_opened_again_and_changed_ones_are(tmp_path, monkeypatch):
    write(tmp_path, {"good.py": GOOD, "report.yaml": YAML})
    long_ago = time.time() - 60
    os.utime(tmp_path / "good.py", (long_ago, long_ago))
    reader = FolderReader(tmp_path)
    monkeypatch.setattr("agentflow.loader.scan._SETTLED", -(10**18))
    first = reader.scan()
    opened: list[str] = []
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: opened.append(path.name) or read_bytes(path))
    assert reader.scan() == first
    assert opened == []
    write(tmp_path, {"report.yaml": YAML + "# more\n"})
    assert reader.scan() != first
    assert opened == ["report.yaml"]
    monkeypatch.setattr("agentflow.loader.scan._SETTLED", 10**18)
    opened.clear()
    reader.scan()  # whatever may have changed within the clock's tick is read again
    assert opened == ["good.py", "report.yaml"]


def test_the_scan_and_the_bundle_agree_on_the_hash(tmp_path):
    write(tmp_path, {"good.py": GOOD, "report.yaml": YAML, "data/rows.csv": "a\n"})
    assert FolderReader(tmp_path).scan().bundle_hash == build_bundle(tmp_path).hash


def test_a_folder_that_is_missing_or_too_large_is_a_problem(tmp_path, monkeypatch):
    (problem,) = FolderReader(tmp_path / "none").scan().problems
    assert "No such file" in problem.message
    write(tmp_path, {"report.yaml": YAML, "big.bin": "0" * 100, "data.bin": "0" * 40})
    reader = FolderReader(tmp_path)
    with monkeypatch.context() as small:
        small.setattr("agentflow.bundles.MAX_BYTES", 50)
        small.setattr("agentflow.loader.scan.MAX_BYTES", 50)
        scan = reader.scan()
        assert [source.relative for source in scan.files] == ["report.yaml"]
        assert scan.bundle_hash is None
        assert "Largest: big.bin" in scan.problems[0].message
    assert reader.scan().bundle_hash == build_bundle(tmp_path).hash
    monkeypatch.setattr("agentflow.folder.MAX_FILES", 2)
    assert "more than 2 files" in reader.scan().problems[0].message


def test_load_workflows_says_what_a_file_lacks(tmp_path):
    two = "@workflow\ndef one():\n    node.noop('a')\n\n@workflow\ndef two():\n    node.noop('a')\n"
    write(tmp_path, {"two.py": python(two), "none.py": "x = 1\n", "report.yaml": YAML, "x.txt": "", "bad.py": "1/0"})
    assert [spec.name for spec in load_workflows(tmp_path / "two.py")] == ["one", "two"]
    assert load_workflow(tmp_path / "two.py", "two").name == "two"
    assert load_workflow(tmp_path / "report.yaml").name == "report"
    with pytest.raises(UsageError, match="2 workflows") as several:
        load_workflow(tmp_path / "two.py")
    assert "one, two" in (several.value.hint or "")
    with pytest.raises(UsageError, match="no workflow 'x'"):
        load_workflows(tmp_path / "two.py", "x")
    with pytest.raises(SpecError, match=r"none\.py:1: the file has no workflow"):
        load_workflows(tmp_path / "none.py")
    with pytest.raises(UsageError, match="no workflow file"):
        load_workflows(tmp_path / "x.txt")
    with pytest.raises(FileNotReadable, match="does not exist"):
        load_workflows(tmp_path / "gone.py")
    with pytest.raises(SpecError, match=r"bad\.py:1: ZeroDivisionError") as failed:
        load_workflows(tmp_path / "bad.py")
    assert isinstance(failed.value, ImportFailed)
    assert "1/0" in failed.value.as_document()["traceback"]


def test_the_bundle_root_is_the_dag_folder_when_the_file_lies_in_it(tmp_path):
    dags = tmp_path / "dags"
    assert bundle_root(dags / "team" / "etl.py", dags) == dags
    assert bundle_root(tmp_path / "else" / "etl.py", dags) == tmp_path / "else"
    assert bundle_root(tmp_path / "else" / "etl.py") == tmp_path / "else"


def _until(condition, seconds: float = 30.0) -> bool:
    """Whether a condition of another process came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        threading.Event().wait(0.01)
    return True


def _ends(pid: int) -> bool:
    """Whether a process of ours ends (or is only waiting to be reaped)."""

    def gone() -> bool:
        status = Path(f"/proc/{pid}/stat")
        if sys.platform == "linux":
            try:
                return status.read_text().rpartition(")")[2].split()[0] == "Z"
            except (FileNotFoundError, ProcessLookupError):
                return True
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return False

    return _until(gone)
