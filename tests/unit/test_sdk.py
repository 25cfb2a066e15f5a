from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from datetime import timedelta
from pathlib import Path

import pytest

from agentflow import chain, node, workflow
from agentflow.errors import WorkflowBodyError

HERE = __name__


@node(retries=2, timeout=timedelta(seconds=30))
def load(city: str, limit: int = 10) -> list[int]:
    return [len(city)] * limit


@node
def total(rows: list[int]) -> int:
    return sum(rows)


@node
async def slow(rows: list[int]) -> int:
    return len(rows)


@node
def merge(*parts: int) -> int:
    return sum(parts)


@node
def collect(**parts: int) -> dict[str, int]:
    return parts


def nodes_of(body):
    """The `nodes` that a body draws."""
    return workflow(body).document()["nodes"]


def test_a_call_in_a_body_makes_a_node_with_templates_and_upstreams_from_its_arguments():
    @workflow(name="sales", params={"city": {"type": "string", "default": "Berlin"}})
    def sales(city):
        """Counts sales."""
        rows = load(city)
        total(rows) >> node.shell("notify", command="echo done")

    assert sales.document() == {
        "name": "sales",
        "description": "Counts sales.",
        "params": {"city": {"type": "string", "default": "Berlin"}},
        "nodes": {
            "load": {
                "type": "python",
                "retries": 2,
                "timeout": "30s",
                "config": {"function": f"{HERE}:load", "args": {"city": "{{ params.city }}"}},
            },
            "total": {
                "type": "python",
                "needs": ["load"],
                "config": {"function": f"{HERE}:total", "args": {"rows": "{{ nodes.load.output }}"}},
            },
            "notify": {"type": "shell", "needs": ["total"], "config": {"command": "echo done"}},
        },
    }


def test_the_document_is_a_valid_spec():
    @workflow
    def sales(city: str = "Berlin"):
        total(load(city))

    spec = sales.spec()
    assert spec.name == "sales"
    assert list(spec.nodes) == ["load", "total"]


def test_drawing_twice_gives_the_same_document():
    @workflow
    def twice():
        total(load("x"))

    assert twice.document() == twice.document()


def test_outside_a_body_a_node_function_is_the_plain_function():
    assert load("abc", limit=2) == [3, 3]
    assert asyncio.run(slow([1, 2])) == 2  # type: ignore[arg-type]  # the wrapper keeps the coroutine
    assert load.__name__ == "load"


def test_ids_are_the_function_name_then_numbered_then_what_named_says():
    def body():
        load("a")
        load("b")
        load.named("third")("c")
        load("d")

    assert list(nodes_of(body)) == ["load", "load_2", "third", "load_3"]


def test_an_id_given_by_hand_twice_is_an_error():
    def body():
        load.named("x")("a")
        node.shell("x", command="true")

    with pytest.raises(WorkflowBodyError, match="`x` is used twice"):
        nodes_of(body)


def test_override_changes_keys_for_one_call_only():
    def body():
        load.override(retries=5, pool="slow")("a")
        load("b")

    nodes = nodes_of(body)
    assert (nodes["load"]["retries"], nodes["load"]["pool"]) == (5, "slow")
    assert nodes["load_2"]["retries"] == 2


def test_edges_by_operators_lists_and_chain():
    def body():
        a, b, c, d, e = (node.noop(name) for name in "abcde")
        a >> [b, c] >> d
        e << [d, a]
        chain(b, c)

    nodes = nodes_of(body)
    assert {name: item.get("needs", []) for name, item in nodes.items()} == {
        "a": [],
        "b": ["a"],
        "c": ["a", "b"],
        "d": ["b", "c"],
        "e": ["d", "a"],
    }


def test_a_list_on_the_right_of_an_edge_comes_back_so_that_chains_go_on():
    def body():
        a, b = node.noop("a"), node.noop("b")
        result = [a] << b
        assert result is b

    assert nodes_of(body)["b"].get("needs") is None
    assert nodes_of(body)["a"]["needs"] == ["b"]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda x: x["total"], '{{ nodes.x.output["total"] }}'),
        (lambda x: x[0], "{{ nodes.x.output[0] }}"),
        (lambda x: x[-1].name, "{{ nodes.x.output[-1].name }}"),
        (lambda x: x.items, "{{ nodes.x.output.items }}"),
        (lambda x: x.output, "{{ nodes.x.output.output }}"),
        (lambda x: x[1:3], "{{ nodes.x.output[1:3] }}"),
        (lambda x: x[:2], "{{ nodes.x.output[:2] }}"),
        (lambda x: x['a "quoted" key'], r'{{ nodes.x.output["a \"quoted\" key"] }}'),
        (lambda x: x > 10, "{{ (nodes.x.output > 10) }}"),
        (lambda x: x == "a", '{{ (nodes.x.output == "a") }}'),
        (lambda x: x != None, "{{ (nodes.x.output != none) }}"),  # noqa: E711 - the operator is what is tested
        (lambda x: (x["n"] >= 1) & ~(x["ok"] == True), '{{ ((nodes.x.output["n"] >= 1) and (not (nodes.x.output["ok"] == true))) }}'),  # noqa: E712 - as above
        (lambda x: x | [1, {"a": None}], '{{ (nodes.x.output or [1, {"a": none}]) }}'),
        (lambda x: f"n={x.n}!", "n={{ nodes.x.output.n }}!"),
    ],
)  # fmt: skip
def test_expressions_become_templates(make, text):
    def body():
        x = node.noop("x")
        node.noop("y", output=make(x))

    nodes = nodes_of(body)
    assert nodes["y"] == {"type": "noop", "needs": ["x"], "config": {"output": text}}


def test_a_param_as_an_item_brings_no_upstream_and_an_id_with_a_dash_is_quoted():
    @workflow
    def keyed(key: str):
        row = node.noop("a-b")
        node.noop("y", output=row[key])

    assert keyed.document()["nodes"]["y"] == {
        "type": "noop",
        "needs": ["a-b"],
        "config": {"output": "{{ nodes['a-b'].output[params.key] }}"},
    }


@pytest.mark.parametrize(
    ("use", "says"),
    [
        (lambda x: "yes" if x else "no", "cannot decide on nodes.x.output"),
        (lambda x: "yes" if x == [] else "no", "cannot decide on"),
        (lambda x: not x, "cannot decide on"),
        (lambda x: 3 in x, "cannot look inside"),
        (list, "cannot loop over"),
        (lambda x: [*x], "cannot loop over"),
        (len, "cannot take the length of"),
        (lambda x: x.append(1), "cannot call nodes.x.output.append"),
        (lambda x: f"{x:>10}", "format '>10'"),
        (lambda x: x[{1}], "a set cannot be written"),
    ],
)
def test_using_the_value_in_the_body_is_an_error_that_says_why(use, says):
    def body():
        use(node.noop("x"))

    with pytest.raises(WorkflowBodyError, match=says) as caught:
        nodes_of(body)
    assert "set" in says or "not known while the graph is drawn" in str(caught.value)


def test_texts_bring_upstreams_only_where_there_is_no_path_yet():
    def body():
        a = node.noop("a")
        b = node.noop("b")
        a >> b
        node.noop("direct", output=f"see {a}")
        node.noop("through", needs=["b"], output="see {{ nodes.a.output }}")
        node.noop("by_when", when="{{ nodes.b.state == 'success' }}")
        node.python("literal", code="def main():\n    return '{{ nodes.a.output }}'\n")

    needs = {name: item.get("needs") for name, item in nodes_of(body).items()}
    assert needs == {"a": None, "b": ["a"], "direct": ["a"], "through": ["b"], "by_when": ["b"], "literal": None}


def test_values_at_any_depth_are_found_and_tuples_become_lists():
    def body():
        a = node.noop("a")
        node.noop("b", output={"deep": [1, (a["x"], None)], "plain": 1.5})

    assert nodes_of(body)["b"]["config"]["output"] == {
        "deep": [1, ['{{ nodes.a.output["x"] }}', None]],
        "plain": 1.5,
    }
    assert nodes_of(body)["b"]["needs"] == ["a"]


@pytest.mark.parametrize("value", [{1}, b"x", float("nan"), float("inf"), {1: 2}, object(), Path("x")])
def test_an_argument_that_is_not_json_is_refused_with_its_place(value):
    def body():
        load([value])  # type: ignore[arg-type]

    with pytest.raises(WorkflowBodyError, match=r"`args\.city\[0\]` of node `load`"):
        nodes_of(body)


def test_node_keys_and_config_are_told_apart_by_name():
    def body():
        node.http("ping", url="http://x", timeout="30s", retries=3, config={"timeout": "5s"}, json={"a": 1})
        node.wait("nap", for_="1s")

    assert nodes_of(body) == {
        "ping": {
            "type": "http",
            "timeout": "30s",
            "retries": 3,
            "config": {"timeout": "5s", "url": "http://x", "json": {"a": 1}},
        },
        "nap": {"type": "wait", "config": {"for": "1s"}},
    }


def test_config_given_twice_is_an_error():
    with pytest.raises(TypeError, match="`url` is given twice"):
        nodes_of(lambda: node.http("x", url="a", config={"url": "b"}))


def test_a_branch_takes_results_as_its_choices_and_comes_before_them():
    def body():
        rows = node.noop("rows")
        big, small = node.noop("big"), node.noop("small")
        node.branch("pick", cases=[{"when": rows["n"] > 10, "to": big}], default=[small])

    nodes = nodes_of(body)
    assert nodes["pick"]["config"] == {
        "cases": [{"when": '{{ (nodes.rows.output["n"] > 10) }}', "to": ["big"]}],
        "default": ["small"],
    }
    assert nodes["pick"]["needs"] == ["rows"]
    assert (nodes["big"]["needs"], nodes["small"]["needs"]) == (["pick"], ["pick"])


def test_map_gives_the_item_to_the_first_free_parameter():
    def body():
        cities = node.noop("cities")
        load.map(cities, limit=3)
        load.named("by_limit").map([1, 2], city="x")

    nodes = nodes_of(body)
    assert nodes["load"]["for_each"] == "{{ nodes.cities.output }}"
    assert nodes["load"]["needs"] == ["cities"]
    assert nodes["load"]["config"]["args"] == {"city": "{{ item }}", "limit": 3}
    assert nodes["by_limit"]["config"]["args"] == {"city": "x", "limit": "{{ item }}"}


def test_wrong_arguments_fail_where_they_are_written():
    with pytest.raises(TypeError, match=r"load\(\): got an unexpected keyword argument 'town'"):
        nodes_of(lambda: load("x", town="y"))  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"load\(\): missing a required argument: 'city'"):
        nodes_of(lambda: [load()])  # type: ignore[call-arg]


def test_keyword_collections_are_arguments_and_positional_ones_are_refused():
    def body():
        collect(a=total([1]), b=2)

    assert nodes_of(body)["collect"]["config"]["args"] == {"a": "{{ nodes.total.output }}", "b": 2}
    with pytest.raises(WorkflowBodyError, match="takes `parts` by position only"):
        nodes_of(lambda: merge(1, 2))


def test_unknown_keys_are_refused_with_a_guess():
    with pytest.raises(TypeError, match="@node has no key `retrys`, did you mean `retries`"):
        node(retrys=2)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="@workflow has no key `trigers`, did you mean `triggers`"):
        workflow(trigers=[])  # type: ignore[call-overload]


def test_a_node_function_inside_a_function_is_refused():
    @node
    def local() -> None: ...

    with pytest.raises(WorkflowBodyError, match="not at the top level"):
        nodes_of(lambda: [local()])


def test_a_name_that_means_something_else_by_now_is_refused(monkeypatch):
    stale = load
    monkeypatch.setattr(sys.modules[__name__], "load", total)
    with pytest.raises(WorkflowBodyError, match="is not this node function"):
        nodes_of(lambda: stale("x"))


@pytest.mark.parametrize(
    ("argument", "schema"),
    [
        ("city: str", {"type": "string"}),
        ("n: int = 3", {"type": "integer", "default": 3}),
        ("share: float", {"type": "number"}),
        ("deep: bool = False", {"type": "boolean", "default": False}),
        ("rows: list[int]", {"type": "array"}),
        ("more: dict[str, int]", {"type": "object"}),
        ("anything", {}),
        ("x: str | None = None", {"default": None}),
    ],
)
def test_params_come_from_annotations_and_defaults(argument, schema):
    names: dict = {"node": node}
    exec(f"def body({argument}):\n    node.noop('a')\n", names)
    (given,) = workflow(names["body"]).document()["params"].values()
    assert given == schema


def test_params_of_the_decorator_win_over_the_signature():
    @workflow(params={"n": {"type": "integer", "minimum": 1}, "extra": {"type": "string"}})
    def body(n: str = "5"):
        node.noop("a", output=n)

    assert body.document()["params"] == {
        "n": {"type": "integer", "minimum": 1, "default": "5"},
        "extra": {"type": "string"},
    }


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (lambda: None, "makes no node"),
        (lambda: [node.noop("a")], "returns"),
        (lambda *args: node.noop("a"), "argument `args`"),
    ],
)
def test_bodies_that_draw_nothing_usable_are_refused(body, says):
    with pytest.raises(WorkflowBodyError, match=says):
        nodes_of(body)


def test_a_returned_dict_is_the_outputs():
    @workflow
    def body():
        return {"sum": total([1])}

    assert body.document()["outputs"] == {"sum": "{{ nodes.total.output }}"}


def test_results_do_not_cross_workflows():
    kept = []

    @workflow
    def one():
        kept.append(node.noop("a"))

    @workflow
    def two():
        node.noop("b", output=kept[0])

    one.document()
    with pytest.raises(WorkflowBodyError, match="`a` belongs to workflow `one`"):
        two.document()


def test_a_workflow_is_not_called_and_typed_nodes_need_a_body():
    @workflow
    def body():
        node.noop("a")

    with pytest.raises(WorkflowBodyError, match="cannot be called"):
        body()
    with pytest.raises(WorkflowBodyError, match="only in the body"):
        node.shell("x", command="true")
    with pytest.raises(WorkflowBodyError, match=r"load\.map"):
        load.map([1])
    with pytest.raises(WorkflowBodyError, match="drawn inside the body of"):
        nodes_of(body.document)


def test_a_body_that_raises_leaves_no_graph_behind():
    with pytest.raises(ZeroDivisionError):
        nodes_of(lambda: 1 / 0)
    assert total([1, 2]) == 3


def test_lines_say_where_each_node_was_made():
    @workflow
    def body():
        node.noop("a")

        total([1])

    body.document()
    assert body.lines["total"] - body.lines["a"] == 2


def test_importing_the_sdk_loads_no_third_party_package():
    code = textwrap.dedent("""
        import sys
        before = set(sys.modules)  # what site and .pth files load is not ours
        from agentflow import workflow, node
        @node
        def f(x): return x + 1
        @workflow
        def w(): f(1)
        assert f(1) == 2
        loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
        print(sorted(loaded - set(sys.stdlib_module_names) - {"agentflow", "__mp_main__"}))
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_type_checkers_follow_data_from_node_to_node(tmp_path):
    file = tmp_path / "typed.py"
    file.write_text(
        textwrap.dedent("""
            from agentflow import chain, node, workflow

            @node(retries=2)
            def load(city: str) -> list[int]:
                return [len(city)]

            @node
            def total(rows: list[int]) -> int:
                return sum(rows)

            @workflow(name="sales", max_active_runs=1)
            def sales(city: str) -> None:
                rows = load(city)
                total(rows) >> node.shell("notify", command="echo done")
                chain(rows, [load.named("again")(city)])
                total("no list")  # line 17
                load.override(retries="many")  # line 18
        """)
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", f"--cache-dir={tmp_path}", str(file)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    lines = [line.split(":")[1] for line in done.stdout.splitlines() if "error:" in line]
    assert lines == ["17", "18"], done.stdout + done.stderr
