from __future__ import annotations

import asyncio
import sys
import traceback

import pytest

from agentflow.nodes import inline_code
from agentflow.nodes.base import NodeContext, NodeFailed
from agentflow.nodes.python import PythonConfig, PythonNode


def run(code=None, *, node="clean", bundle_dir=None, **config):
    given = config if code is None else {"code": code, **config}
    return PythonNode().run(PythonConfig.model_validate(given), NodeContext(node=node, bundle_dir=bundle_dir))


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    """A folder of user code; imported modules are forgotten afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_main_gets_args_by_name_and_its_return_value_is_the_output():
    code = "def main(page, times=2):\n    return {'words': len(page.split()) * times}\n"
    assert run(code, args={"page": "a b c"}) == {"words": 6}


def test_main_may_be_a_coroutine_function():
    code = "import asyncio\nasync def main(n):\n    await asyncio.sleep(0)\n    return n + 1\n"
    assert run(code, args={"n": 1}) == 2


def test_main_may_return_any_awaitable():
    code = "class Later:\n    def __await__(self):\n        return 7\n        yield\ndef main():\n    return Later()\n"
    assert run(code) == 7


def test_no_event_loop_is_left_behind():
    run("async def main(): return 1")
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()


def test_each_run_gets_fresh_globals():
    code = "seen = []\ndef main():\n    seen.append(1)\n    return len(seen)\n"
    assert [run(code), run(code)] == [1, 1]


def test_the_module_of_inline_code_is_gone_after_the_run():
    before = set(sys.modules)
    run("def main(): return __name__")
    assert not [name for name in set(sys.modules) - before if name.startswith("__node_")]


def test_inline_code_may_define_dataclasses_with_postponed_annotations():
    code = (
        "from __future__ import annotations\n"
        "import dataclasses, typing\n"
        "@dataclasses.dataclass\nclass Row:\n    n: int\n"
        "def main():\n    return [typing.get_type_hints(Row)['n'].__name__, Row(3).n]\n"
    )
    assert run(code) == ["int", 3]


def test_our_own_future_imports_do_not_reach_inline_code():
    assert run("def f(x: int): pass\ndef main(): return f.__annotations__['x'] is int") is True


def test_a_traceback_shows_the_line_of_inline_code():
    with pytest.raises(ZeroDivisionError) as caught:
        run("def main():\n    return 1 / 0  # oops\n")
    text = "".join(traceback.format_exception(caught.value))
    assert 'File "<node clean>", line 2, in main' in text
    assert "return 1 / 0  # oops" in text


def test_a_traceback_shows_the_newest_text_of_a_node():
    with pytest.raises(ZeroDivisionError):
        run("def main():\n    old = 1 / 0\n")
    with pytest.raises(ZeroDivisionError) as caught:
        run("def main():\n    new = 1 / 0\n")
    assert "new = 1 / 0" in "".join(traceback.format_exception(caught.value))


def test_inline_code_is_compiled_once_per_text_and_node():
    inline_code.compiled_code.cache_clear()
    code = "def main(): return 1"
    run(code)
    run(code)
    assert inline_code.compiled_code.cache_info().misses == 1


@pytest.mark.parametrize(
    ("code", "message"),
    [("x = 1", "does not define `main`"), ("main = 5", "`main` is not a function, it is an int")],
)
def test_code_without_a_usable_main_fails_with_advice(code, message):
    with pytest.raises(NodeFailed, match=message):
        run(code)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({}, r"main\(\) missing 1 required positional argument: 'page'"),
        ({"page": 1, "pgae": 2}, r"main\(\) got an unexpected keyword argument 'pgae'"),
    ],
)
def test_wrong_args_are_told_in_pythons_own_words(args, message):
    with pytest.raises(TypeError, match=message):
        run("def main(page): return page", args=args)


def test_a_syntax_error_names_node_and_line():
    with pytest.raises(SyntaxError) as caught:
        run("def main():\n    return (\n")
    assert (caught.value.filename, caught.value.lineno) == ("<node clean>", 2)


def test_an_exception_of_the_code_is_not_wrapped():
    with pytest.raises(KeyError, match="boom"):
        run("def main(): raise KeyError('boom')")


def test_a_function_of_the_bundle_is_called(bundle):
    (bundle / "pkg_a").mkdir()
    (bundle / "pkg_a" / "mod.py").write_text("class Tool:\n    @staticmethod\n    def run(x): return x * 2\n")
    assert run(function="pkg_a.mod:Tool.run", args={"x": 4}, bundle_dir=bundle) == 8


def test_inline_code_may_import_from_the_bundle(bundle):
    (bundle / "helpers_b.py").write_text("VALUE = 11\n")
    assert run("from helpers_b import VALUE\ndef main(): return VALUE", bundle_dir=bundle) == 11


def test_the_bundle_wins_over_other_modules_of_the_same_name(bundle):
    (bundle / "helpers_c.py").write_text("VALUE = 'bundle'\n")
    sys.path.append(str(bundle / "elsewhere"))
    (bundle / "elsewhere").mkdir()
    (bundle / "elsewhere" / "helpers_c.py").write_text("VALUE = 'elsewhere'\n")
    assert run("import helpers_c\ndef main(): return helpers_c.VALUE", bundle_dir=bundle) == "bundle"


def test_a_missing_module_says_where_modules_belong(bundle):
    with pytest.raises(NodeFailed, match="there is no module `nowhere`; put it into the DAG folder") as caught:
        run(function="nowhere.deep:f", bundle_dir=bundle)
    assert caught.value.kind == "ModuleNotFoundError"


def test_a_module_that_the_named_one_misses_is_told_as_it_is(bundle):
    (bundle / "mod_d.py").write_text("import missing_library_x\n")
    with pytest.raises(ModuleNotFoundError, match="missing_library_x"):
        run(function="mod_d:f", bundle_dir=bundle)


@pytest.mark.parametrize(
    ("function", "message"),
    [("json:nothing", "module `json` has no `nothing`"), ("sys:path", "`sys:path` is not a function, it is a list")],
)
def test_a_function_that_is_none_is_refused(function, message):
    with pytest.raises(NodeFailed, match=message):
        run(function=function)


def test_a_check_before_the_run_never_executes_the_code(tmp_path):
    trace = tmp_path / "ran"
    code = f"open({str(trace)!r}, 'w').close()\ndef main(): pass\n"
    assert inline_code.static_problem(code) is None
    assert not trace.exists()


def test_a_check_before_the_run_raises_no_warnings():
    assert inline_code.static_problem("def main(): return 1 is 1\n") is None
