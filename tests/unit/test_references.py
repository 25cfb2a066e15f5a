"""What a template says that it uses, and the templates that are refused before they run."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.errors import TemplateProblem
from agentflow.templates import References, find_references, find_references_in, iter_templates
from agentflow.templates.limits import MAX_TEMPLATE
from agentflow.templates.references import _find
from agentflow.templates.scan import path_text

ids = st.from_regex(r"[A-Za-z_][A-Za-z0-9_-]{0,20}", fullmatch=True)


@pytest.mark.parametrize(
    ("text", "nodes"),
    [
        ("{{ nodes.a.output }}", {"a"}),
        ("{{ nodes['a-b'].output.x[0] }}", {"a-b"}),
        ('{{ nodes["a"].state }} {{ nodes.b.output }}', {"a", "b"}),
        ("{{ nodes.a.output or nodes.b.output }}", {"a", "b"}),
        ("{{ nodes.a.output - nodes.b.output - 1 }}", {"a", "b"}),
        ("{{ nodes.get('a').output }}", {"a"}),
        ("{{ nodes.get.output }}", {"get"}),  # a node may have this name
        ("{% for x in nodes.a.output %}{{ x.nodes.z }}{{ nodes.b.output }}{% endfor %}", {"a", "b"}),
        ("{% if nodes.a.state == 'success' %}{% set x = nodes.b.output %}{{ x }}{% endif %}", {"a", "b"}),
        ("{{ [1] | map('default', nodes.a.output) | list }}", {"a"}),
        ("{{ params.nodes.a }}", set()),
        ("{{ 'nodes.a' }}", set()),
        ("{# nodes.a #}{{ 1 }}", set()),
        ("{% raw %}{{ nodes.a }}{% endraw %}", set()),
        ("nodes.a", set()),
    ],
)
def test_nodes_are_found_wherever_they_stand(text, nodes):
    found = find_references(text)
    assert found.nodes == nodes
    assert not found.dynamic_nodes


def test_params_variables_and_secrets_are_found():
    found = find_references("{{ params.a }}{{ params['b c'] }}{{ vars.host }}{{ secrets['key'] | b64 }}")
    assert found == References(
        params=frozenset({"a", "b c"}),
        vars=frozenset({"host"}),
        secrets=frozenset({"key"}),
        names=frozenset({"params", "vars", "secrets"}),
    )


@pytest.mark.parametrize("entry", ["\\u0000", "a\\ud800"])
@pytest.mark.parametrize("use", ["vars['{}']", "secrets['{}']", "vars.get('{}', 1)"])
def test_an_entry_that_no_database_can_be_asked_for_is_refused(use, entry):
    with pytest.raises(TemplateProblem, match="has no entry named"):
        find_references("{{ " + use.format(entry) + " }}")


@pytest.mark.parametrize(
    "text",
    [
        "{{ nodes[params.which].output }}",
        "{{ nodes['a' ~ index].output }}",
        "{{ nodes[0] }}",
        "{{ nodes.get(params.which) }}",
        "{{ nodes.items() }}",
        "{{ nodes | length }}",
        "{{ nodes | attr('a') }}",
        "{% for id in nodes %}{{ id }}{% endfor %}",
        "{% set all = nodes %}{{ all.a.output }}",
        "{{ 'a' in nodes }}",
    ],
)
def test_nodes_that_only_the_run_can_tell_are_dynamic(text):
    assert find_references(text).dynamic_nodes


def test_dynamic_use_of_the_other_mappings_is_told_too():
    assert find_references("{{ vars[params.env] }} {{ secrets.items() }}").dynamic == {"vars", "secrets"}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("{{ run.id ~ item ~ index }}", {"run", "item", "index"}),
        ("{{ foo(bar) | default(baz) }}", {"foo", "bar", "baz"}),
        ("{{ range(3) }}", set()),
        ("{% for x in xs %}{{ x }}{{ loop.index }}{% endfor %}", {"xs"}),
        ("{% for x in xs %}{% endfor %}{{ x }}", {"xs", "x"}),  # gone after the loop
        ("{% set x = params.a %}{{ x }}", {"params"}),
        ("{% macro m(a) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}", {"b"}),
        ("{% if a %}{{ b }}{% else %}{{ c }}{% endif %}", {"a", "b", "c"}),
    ],
)
def test_names_are_those_looked_up_in_the_context(text, names):
    assert find_references(text).names == names


@pytest.mark.parametrize(
    ("text", "pure"),
    [
        ("{{ 1 }}", True),
        ("{{- params.a | default('}}') -}}", True),
        (" {{ 1 }}", False),
        ("{{ 1 }}\n", False),
        ("{{ 1 }}{{ 2 }}", False),
        ("{{ 1 }} and {{ 2 }}", False),
        ("{% if a %}{% endif %}", False),
        ("plain", False),
        ("{{ '{{ 1 }}' }}", True),
    ],
)
def test_pure_is_exactly_one_expression(text, pure):
    assert find_references(text).pure is pure


@given(
    st.sampled_from(["nodes", "params", "vars", "secrets", "run"]),
    st.lists(st.from_regex(r"[A-Za-z_]\w{0,8}", fullmatch=True) | st.sampled_from(["not", "if", "get"]), min_size=1),
    st.sampled_from(["{{ %s }}", "{{%s}}", "{{- %s }}", " {{ %s }}", "{{ %s}}\n"]),
)
def test_the_short_cut_for_simple_texts_says_what_the_parser_says(scope, path, shape):
    text = shape % ".".join([scope, *path])
    try:
        parsed = _find(text)
    except TemplateProblem:
        with pytest.raises(TemplateProblem):
            find_references(text)
    else:
        assert find_references(text) == parsed


@given(ids)
def test_every_node_id_is_found_in_brackets(node_id):
    assert find_references(f"{{{{ nodes['{node_id}'].output }}}}").nodes == {node_id}


@given(ids)
def test_a_node_id_behind_a_dot_is_found_or_refused_but_never_mistaken(node_id):
    text = f"x {{{{ nodes.{node_id}.output }}}}"
    try:
        assert find_references(text).nodes == {node_id}
    except TemplateProblem:
        assert "-" in node_id


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("{{ nodes.a-b.output }}", "write nodes['a-b']"),
        ("{{ nodes.a-b-c.output.x[0] | json }}", "write nodes['a-b-c']"),
        ("{{ nodes.a-1.output }}", "write nodes['a-1']"),
        ("{{ nodes.a-1b.output }}", "nodes['a-1b']"),
        ("x {{ 1 + (nodes.a-b.output | length) }}", "write nodes['a-b']"),
    ],
)
def test_a_node_id_with_a_dash_gets_the_hint_how_to_write_it(text, hint):
    with pytest.raises(TemplateProblem) as caught:
        find_references(text)
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize("text", ["{{ nodes.a.output - b }}", "{{ params.a-b }}", "{{ item.nodes-a }}"])
def test_other_subtractions_are_fine(text):
    find_references(text)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("{{ a b }}", 1, "expected token"),
        ("a\nb {{ c", 2, "not valid"),
        ("a\n{% if %}", 2, "not valid"),
        ("{{ 'a }}", 1, "not valid"),
        ("{% nope %}", 1, "unknown tag"),
        ("a\n\n{{ a | jsn }}", 3, "there is no filter `jsn`"),
        ("{{ a is defned }}", 1, "there is no test `defned`"),
        ("\n{% include 'x' %}", 2, "`{% include %}` is not available"),
        ("{% set nodes = 1 %}", 1, "`nodes` cannot be assigned to"),
        ("{{ " + "1" * 5000 + " }}", None, "not valid"),
        ("{{ " + "(" * 5000 + " }}", None, "nested too deeply"),
        ("{{ " + "-".join("1" * 5000) + " }}", None, "nested too deeply"),
        ("{{" + " " * MAX_TEMPLATE + "1 }}", None, "the limit is 262,144"),
    ],
)
def test_invalid_templates_are_refused_with_their_line(text, line, words):
    with pytest.raises(TemplateProblem) as caught:
        find_references(text)
    assert words in caught.value.message
    assert caught.value.line == line


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("{{ a | jsn }}", "did you mean `json`?"),
        ("{{ a is defned }}", "did you mean `defined`?"),
        ("echo ${#list[@]}", "bash"),
        ("{{ a b }}", "{% raw %}"),
    ],
)
def test_invalid_templates_come_with_a_hint(text, hint):
    with pytest.raises(TemplateProblem) as caught:
        find_references(text)
    assert hint in (caught.value.hint or "")


def test_a_document_gives_the_references_of_all_its_texts():
    document = {
        "url": "https://{{ vars.host }}/{{ params.city }}",
        "args": {"rows": ["{{ nodes.a.output }}", {"deep": "{{ secrets.key }}"}], "n": 3},
        "code": "{{ not a template",
    }
    found = find_references_in(document, {"code"})
    assert (found.nodes, found.params, found.vars, found.secrets) == ({"a"}, {"city"}, {"host"}, {"key"})
    assert found.pure is False


def test_a_problem_in_a_document_names_its_path():
    with pytest.raises(TemplateProblem) as caught:
        find_references_in({"args": {"rows": ["ok", "{{ a b }}"]}})
    assert caught.value.path == "args.rows[1]"


def test_templates_of_a_document_are_listed_in_order_with_their_paths():
    document = {"a": "{{ 1 }}", "b": ["x", "{{ 2 }}", {"c": "{% raw %}{% endraw %}"}], "{{ key }}": 1}
    listed = [(path_text(path), text) for path, text in iter_templates(document)]
    assert listed == [("a", "{{ 1 }}"), ("b[1]", "{{ 2 }}"), ("b[2].c", "{% raw %}{% endraw %}")]


def test_a_deep_document_is_searched_without_recursion():
    document: object = "{{ nodes.a.output }}"
    for _ in range(50_000):
        document = [document]
    assert find_references_in(document).nodes == {"a"}


@given(st.text(alphabet="{}%#-'\"ab|. \n()[]", max_size=40))
def test_any_text_is_either_understood_or_refused(text):
    with contextlib.suppress(TemplateProblem):
        find_references(text)
