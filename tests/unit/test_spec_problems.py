from __future__ import annotations

import pytest

from agentflow.errors import SpecError
from agentflow.spec import parse_document, parse_text


def problems(text, file="f.yaml"):
    with pytest.raises(SpecError) as caught:
        parse_text(text, file=file)
    return caught.value.problems


HEAD = "name: w\nparams:\n  city: {type: string}\nnodes:\n  a: {type: noop}\n  far: {type: noop}\n"  # 6 lines

# text after HEAD or whole text, line, column, part of the message, part of the hint
TABLE = {
    "unknown key": (HEAD + "  b: {type: noop, need: [a]}", 7, 19, "unknown key `need`", "did you mean `needs`?"),
    "unknown top key": ("name: w\nnode: 1\nnodes: {a: {type: noop}}", 2, 1, "unknown key `node`", "`nodes`"),
    "missing name": ("title: x\nnodes: {a: {type: noop}}", 1, 1, "`name` is missing", ""),
    "missing nodes": ("name: w", 1, 1, "`nodes` is missing", ""),
    "no nodes": ("name: w\nnodes: {}", 2, 8, "must not be empty", ""),
    "missing type": (HEAD + "  b:\n    needs: [a]", 8, 5, "`type` is missing", "type: python"),
    "bad name": ("name: My Flow\nnodes: {a: {type: noop}}", 1, 7, "`My Flow` is not a workflow name", "small letters"),
    "bad node id": (HEAD + "  1b: {type: noop}", 7, 3, "`1b` is not a node id", "letters, digits"),
    "needs is text": (HEAD + "  b: {type: noop, needs: a}", 7, 26, "must be a list, not `a`", "needs: [a]"),
    "unknown upstream": (HEAD + "  b: {type: noop, needs: [a, farr]}", 7, 30, "no node `farr`", "did you mean `far`?"),
    "cycle": (
        "name: w\nnodes:\n  a: {type: noop, needs: [c]}\n  b: {type: noop, needs: [a]}\n  c: {type: noop, needs: [b]}",
        3, 27, "cycle: a -> b -> c -> a", "remove one",
    ),
    "own upstream": (HEAD + "  b: {type: noop, needs: [b]}", 7, 27, "b needs itself", "remove"),
    "unknown type": (HEAD + "  b: {type: pyton}", 7, 13, "no node type `pyton`", "did you mean `python`?"),
    "unknown config key": (HEAD + "  b: {type: shell, config: {command: ls, envv: {}}}", 7, 42, "unknown key `envv`", "`env`"),
    "missing config": (HEAD + "  b: {type: shell, config: {}}", 7, 28, "`command` is required", ""),
    "wrong config type": (
        HEAD + "  b: {type: shell, config: {command: ls, skip_exit_code: x}}", 7, 58, "must be a whole number", "",
    ),
    "config is text": (HEAD + "  b: {type: noop, config: x}", 7, 27, "must be a mapping, not `x`", ""),
    "trigger rule": (HEAD + "  b: {type: noop, trigger_rule: al_done}", 7, 33, "is not one of", "did you mean `all_done`?"),
    "duration": (HEAD + "  b: {type: noop, timeout: 5 apples}", 7, 28, "is not a duration", ""),
    "duration without unit": (HEAD + "  b: {type: noop, timeout: 30}", 7, 28, "must be text, not 30", 'the unit: "30s"'),
    "zero timeout": (HEAD + "  b: {type: noop, timeout: 0s}", 7, 28, "longer than 0", ""),
    "retries": (HEAD + "  b: {type: noop, retries: -1}", 7, 28, "must be at least 0, not -1", ""),
    "retries is a truth value": (HEAD + "  b: {type: noop, retries: true}", 7, 28, "must be a whole number, not true", ""),
    "cpu": (HEAD + "  b: {type: noop, resources: {cpu: many}}", 7, 36, "cores such as 500m", ""),
    "memory": (HEAD + "  b: {type: noop, resources: {memory: 512m}}", 7, 39, "not an amount of memory", ""),
    "merge key": (HEAD + "  b: {type: noop, <<: {needs: [a]}}", 7, 19, "merge keys", "`defaults`"),
    "template of a stranger": (
        HEAD + "  b:\n    type: template\n    needs: [a]\n    config: {template: '{{ nodes.far.output }}'}",
        10, 24, "`nodes.far`, which is not upstream of `b`", "needs: [a, far]",
    ),
    "template of an unknown node": (
        HEAD + "  b: {type: template, needs: [far], config: {template: '{{ nodes.fat.output }}'}}",
        7, 56, "the node `fat`, which does not exist", "did you mean `far`?",
    ),
    "template of itself": (
        HEAD + "  b: {type: template, config: {template: '{{ nodes.b.output }}'}}", 7, 42, "its own node", "",
    ),
    "template of an unknown param": (
        HEAD + "  b: {type: template, config: {template: '{{ params.citi }}'}}", 7, 42, "param `citi`", "`city`",
    ),
    "template of an unknown name": (
        HEAD + "  b: {type: template, config: {template: '{{ city }}'}}", 7, 42, "`city`, which does not exist",
        "write params.city",
    ),
    "computed node": (
        HEAD + "  b: {type: template, config: {template: '{{ nodes[params.city] }}'}}", 7, 42, "computed name", "",
    ),
    "item without for_each": (HEAD + "  b: {type: noop, when: '{{ item }}'}", 7, 25, "only in nodes with `for_each`", ""),
    "broken template": (HEAD + "  b: {type: noop, config: {output: '{{ 1 + }}'}}", 7, 36, "template", ""),
    "secrets in a command": (
        HEAD + "  b: {type: shell, config: {command: 'x {{ secrets.k }}'}}", 7, 38, "secrets", "`env` or `files`",
    ),
    "secrets in when": (HEAD + "  b: {type: noop, when: '{{ secrets.k }}'}", 7, 25, "secrets are not available", ""),
    "computed secret": (
        HEAD + "  b: {type: template, config: {template: '{{ secrets[params.city] }}'}}", 7, 42, "secrets by a computed name",
        "secrets.token",
    ),
    "all secrets": (
        HEAD + "  b: {type: template, config: {template: '{{ secrets | json }}'}}", 7, 42, "secrets by a computed name", "",
    ),
    "secrets under another name": (
        HEAD + "  b: {type: template, config: {template: '{% set s = secrets %}{{ s.k }}'}}", 7, 42, "computed name", "",
    ),
    "when is no expression": (HEAD + "  b: {type: noop, when: params.city}", 7, 25, "exactly one", "{{ params.city }}"),
    "when is more than one": (HEAD + "  b: {type: noop, when: 'x {{ params.city }}'}", 7, 25, "exactly one", ""),
    "when is a number": (HEAD + "  b: {type: noop, when: 1}", 7, 25, "must be one {{ expression }}", ""),
    "branch to a stranger": (
        HEAD + "  b: {type: branch, config: {cases: [{when: true, to: [far]}]}}", 7, 56, "not a direct downstream",
        "write `needs: [b]` in `far`",
    ),
    "branch to nobody": (
        HEAD + "  b: {type: branch, config: {cases: [{when: true, to: []}], default: [fa]}}", 7, 71, "no node `fa`",
        "did you mean `far`?",
    ),
    "param schema": (
        "name: w\nparams:\n  n: {type: integer, minimun: 1}\nnodes: {a: {type: noop}}", 3, 22,
        "unknown schema keyword `minimun`", "did you mean `minimum`?",
    ),
    "param default": (
        "name: w\nparams:\n  n: {type: integer, default: x}\nnodes: {a: {type: noop}}", 3, 31, "does not fit", "",
    ),
    "param without schema": (
        "name: w\nparams: {city: Berlin}\nnodes: {a: {type: noop}}", 2, 16, "must be a mapping", "{type: string",
    ),
    "cron": (
        "name: w\ntriggers:\n  - {type: cron, cron: '61 * * * *'}\nnodes: {a: {type: noop}}", 3, 24, "61", "",
    ),
    "zone": (
        "name: w\ntriggers:\n  - {type: cron, cron: '@daily', timezone: Europe/Berlim}\nnodes: {a: {type: noop}}", 3, 44,
        "Berlim", "Berlin",
    ),
    "interval": ("name: w\ntriggers: [{type: interval, every: soon}]\nnodes: {a: {type: noop}}", 2, 36, "duration", ""),
    "date without at": ("name: w\ntriggers:\n  - type: date\nnodes: {a: {type: noop}}", 3, 5, "`at` is missing", ""),
    "key of another type": (
        "name: w\ntriggers: [{type: interval, every: 5m, cron: '@daily'}]\nnodes: {a: {type: noop}}", 2, 40,
        "an interval trigger has no `cron`", "every",
    ),
    "trigger without its params": (
        HEAD + "triggers: [{type: interval, every: 5m}]", 7, 12, "required", "",
    ),
    "trigger names twice": (
        "name: w\nnodes: {a: {type: noop}}\ntriggers:\n"
        + "".join(f"  - {{type: interval, every: {number}m, name: x}}\n" for number in (5, 6)), 5, 39, "has the name `x` too", "",
    ),
    "NUL": ('name: w\nnodes:\n  a: {type: noop, config: {output: "a\\0b"}}', 3, 36, "\\u0000", ""),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLE.values(), ids=TABLE.keys())
def test_a_mistake_is_told_with_its_place_and_a_hint(case):
    text, line, column, message, hint = case
    [problem] = problems(text)

    assert message in problem.message
    assert hint in (problem.hint or "")
    assert (problem.line, problem.column) == (line, column)


UNSUPPORTED = [
    ("node", "outputs: {rows: 1}"),
    ("workflow", "deadline: 1h"),
    ("workflow", "notify: [me]"),
]


@pytest.mark.parametrize(("where", "text"), UNSUPPORTED)
def test_a_feature_that_is_not_built_yet_is_refused_by_name(where, text):
    node = f", {text}" if where == "node" else ""
    workflow = text if where == "workflow" else ""
    [problem] = problems(f"name: w\n{workflow}\nnodes:\n  a: {{type: noop{node}}}\n")

    assert problem.message.endswith("is not supported in this version")
    assert problem.line == {"workflow": 2, "node": 4}[where]


def test_all_problems_are_told_at_once_even_when_the_shape_is_wrong():
    text = (
        "name: w\nparams:\n  n: {type: integr}\nnodes:\n  a: {type: noop, need: [b]}\n"
        "  b: {type: noop, needs: [c]}\n  c: {type: noop, needs: [b]}\n  d: {type: nop, needs: [zz]}\n"
        "  e: {type: template, timeout: x, config: {template: '{{ nodes.b.output }}'}}\n"
        "triggers:\n  - {type: cron, cron: '* * *'}\n  - {type: interval, every: soon}\n  - {type: date}\n"
    )
    assert [problem.line for problem in problems(text)] == [3, 5, 6, 8, 8, 9, 11, 12, 13]


def test_what_depends_on_a_broken_part_is_not_reported():
    text = (
        "name: w\nparams: {p: 5}\nnodes:\n  1x: {type: noop}\n  a: {type: noop, needs: [1x, b]}\n"
        "  b: {type: noop, needs: text}\n  c: {type: template, config: {template: '{{ params.p }} {{ nodes.b.output }}'}}\n"
    )
    assert [(problem.line, problem.path) for problem in problems(text)] == [
        (2, "params.p"),
        (4, "nodes['1x']"),
        (5, "nodes.a.needs[0]"),
        (6, "nodes.b.needs"),
    ]


def test_any_transitive_upstream_is_visible_to_templates():
    nodes = {f"n{index}": {"type": "noop", "needs": [f"n{index - 1}"] if index else []} for index in range(5)}
    nodes["last"] = {"type": "template", "needs": ["n4"], "config": {"template": "{{ nodes.n0.output }}"}}
    assert parse_document({"name": "w", "nodes": nodes}).nodes["last"].needs == ["n4"]


def test_literal_fields_are_no_templates():
    code = "def main():\n    return '{{ nodes.x }} {{ broken'\n"
    parse_document({"name": "w", "nodes": {"a": {"type": "python", "config": {"code": code}}}})


def test_a_node_with_a_dash_written_as_an_attribute_gets_the_hint_how_to_write_it():
    nodes = {
        "a-b": {"type": "noop"},
        "c": {"type": "template", "needs": ["a-b"], "config": {"template": "{{ nodes.a-b.output }}"}},
    }
    with pytest.raises(SpecError) as caught:
        parse_document({"name": "w", "nodes": nodes})
    assert any("nodes['a-b']" in (problem.hint or "") for problem in caught.value.problems)


def test_the_number_of_problems_is_bounded_and_the_rest_is_counted():
    text = "name: w\nnodes:\n" + "".join(f"  n{index}: {{type: noop, need: [a]}}\n" for index in range(3000))
    found = problems(text)

    assert len(found) == 51
    assert [problem.line for problem in found[:3]] == [3, 4, 5]
    assert found[-1].message == "and 2,950 more problems"


def test_a_mapping_with_very_many_wrong_keys_is_one_problem():
    [problem] = problems("name: w\n" + "".join(f"k{index}: 1\n" for index in range(1000)))
    assert problem.message.startswith("has 1,001 keys")


def test_too_many_nodes_are_refused():
    nodes = {f"n{index}": {"type": "noop"} for index in range(100_001)}
    with pytest.raises(SpecError, match="100,001 nodes are more than 100,000"):
        parse_document({"name": "w", "nodes": nodes})


def test_a_long_cycle_is_shortened():
    nodes = {f"n{index}": {"type": "noop", "needs": [f"n{(index - 1) % 1000}"]} for index in range(1000)}
    with pytest.raises(SpecError) as caught:
        parse_document({"name": "w", "nodes": nodes})
    [problem] = caught.value.problems
    assert problem.message.endswith("-> n0 (1,000 nodes)")
    assert len(problem.message) < 200


@pytest.mark.parametrize("value", [object(), {1, 2}, (1,), b"x", float("inf"), "\ud800", 10**400])
def test_a_document_of_other_values_than_json_is_refused_with_its_path(value):
    document = {"name": "w", "nodes": {"a": {"type": "noop", "config": {"output": [value]}}}}
    with pytest.raises(SpecError) as caught:
        parse_document(document)
    [problem] = caught.value.problems
    assert problem.path == "nodes.a.config.output[0]"


def test_a_document_that_contains_itself_is_refused():
    document: dict = {"name": "w", "nodes": {}}
    document["nodes"]["a"] = document
    with pytest.raises(SpecError, match="nested deeper than 64 levels"):
        parse_document(document)


def test_the_error_prints_file_line_column_path_and_hint():
    with pytest.raises(SpecError) as caught:
        parse_text("name: w\nnodes:\n  a: {type: noop, need: [b]}\n", file="dags/w.yaml")
    assert str(caught.value) == "dags/w.yaml:3:19: nodes.a.need: unknown key `need` (did you mean `needs`?)"
    assert caught.value.as_document()["line"] == 3


def test_json_problems_have_places_too():
    [problem] = problems('{"name": "w",\n "nodes": {"a": {"type": "noop",\n  "need": []}}}', file="w.json")
    assert (problem.line, problem.column) == (3, 3)


def test_the_document_is_not_changed_by_a_failed_check():
    document = {"name": "BAD", "nodes": {"a": {"type": "noop", "need": 1}}}
    with pytest.raises(SpecError):
        parse_document(document)
    assert document == {"name": "BAD", "nodes": {"a": {"type": "noop", "need": 1}}}
