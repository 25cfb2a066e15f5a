"""Rendering: native types, missing names, filters, sizes and the sandbox (SEMANTICS section 2)."""

from __future__ import annotations

import shlex
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.errors import TemplateError
from agentflow.templates import evaluate, render, truth
from agentflow.templates.compiled import CACHE_SIZE, _cached, compile_template
from agentflow.templates.limits import MAX_TEMPLATE, MAX_TEXT
from agentflow.templates.scan import MARKERS

CONTEXT: dict[str, Any] = {
    "params": {"city": "Berlin", "count": 3, "none": None, "deep": {"items": [1, 2], "get": "mine"}},
    "nodes": {
        "fetch": {"output": {"items": [1, 2], "words": 3, "text": "[1, 2]"}, "state": "success"},
        "fetch-page": {"output": None, "state": "failed"},
    },
    "run": {"id": "r1", "logical_date": "2026-10-25T01:30:00Z", "triggered_by": "cron"},
    "vars": {"host": "example.org"},
    "secrets": {"key": "hunter2"},
}


def json_documents(texts: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    return st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=12,
    )


plain_texts = st.text().filter(lambda text: not any(marker in text for marker in MARKERS))
json_values = json_documents(st.text())
plain_documents = json_documents(plain_texts)


def one(text: str) -> Any:
    return render({"field": text}, CONTEXT)["field"]


def refusal(text: str) -> str:
    with pytest.raises(TemplateError) as caught:
        one(text)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{{ params.count }}", 3),
        ("{{params.count}}", 3),
        ("{{- params.count -}}", 3),
        ("{{ params.count > 2 }}", True),
        ("{{ params.none }}", None),
        ("{{ params.deep }}", {"items": [1, 2], "get": "mine"}),
        ("{{ params.count / 2 }}", 1.5),
        ("{{ nodes.fetch.output.text }}", "[1, 2]"),  # a text that looks like a list stays a text
        ("{{ '007' }}", "007"),
        ("{{ (1, 2) }}", [1, 2]),
        ("{{ range(3) }}", [0, 1, 2]),
        ("{{ [1, 2] | map('string') }}", ["1", "2"]),
        ("{{ {'a': 1}.items() }}", [["a", 1]]),
        ("{{ '<b>' | escape }}", "&lt;b&gt;"),
        ("{{ nodes['fetch-page'].output or nodes.fetch.output.words }}", 3),
    ],
)
def test_a_lone_expression_keeps_its_type(text, value):
    rendered = one(text)
    assert rendered == value
    assert type(rendered) is type(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (" {{ params.count }}", " 3"),
        ("{{ params.count }}\n", "3\n"),
        ("{{ params.count }}{{ params.count }}", "33"),
        ("{{ params.count }}-{{ params.count }}", "3-3"),
        ("{% if params.count > 2 %}many{% endif %}", "many"),
        ("{% for n in nodes.fetch.output.items %}{{ loop.index }}:{{ n }} {% endfor %}", "1:1 2:2 "),
        ("a {# note #}b", "a b"),
        ("{% raw %}{{ params.count }}{% endraw %}", "{{ params.count }}"),
        ("is {{ params.none }}, {{ true }}", "is None, True"),
        ("{{ [1, 2] | map('string') }} of {{ range(2) }}", "['1', '2'] of [0, 1]"),
        ("<{{ '<b>' }}>", "<<b>>"),
    ],
)
def test_any_other_template_gives_text(text, value):
    assert one(text) == value


@given(plain_texts)
def test_text_without_markers_comes_back_unchanged(text):
    assert render(text, {}) == text


@given(json_values)
def test_values_pass_through_an_expression_unchanged(value):
    assert render("{{ item }}", {"item": value}) == value


@given(plain_documents)
def test_a_document_without_templates_comes_back_equal(document):
    assert render(document, {}) == document


def test_templates_are_rendered_at_any_depth_but_not_in_keys():
    document = {"a": [{"{{ params.count }}": "{{ params.count }}"}, 1, None, True]}
    assert render(document, CONTEXT) == {"a": [{"{{ params.count }}": 3}, 1, None, True]}


def test_literal_fields_are_left_alone_at_the_top_only():
    document = {"code": "f'{{ x }}'", "args": {"code": "{{ params.count }}"}}
    assert render(document, CONTEXT, literal=frozenset({"code"})) == {"code": "f'{{ x }}'", "args": {"code": 3}}


def test_rendering_never_changes_the_context_or_the_document():
    document = {"list": ["{{ params.deep }}"]}
    rendered = render(document, CONTEXT)
    rendered["list"][0]["items"].append(3)
    assert CONTEXT["params"]["deep"]["items"] == [1, 2]
    assert document == {"list": ["{{ params.deep }}"]}


def test_a_document_without_templates_does_not_import_jinja():
    code = (
        "import sys; from agentflow.templates import render, find_references, evaluate;"
        "render({'a': ['b', '{c}']}, {}); find_references('x'); evaluate(True, {}); print('jinja2' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "False\n"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{{ nodes.fetch.output.items }}", [1, 2]),
        ("{{ nodes.fetch.output['items'] }}", [1, 2]),
        ("{{ params.deep.get }}", "mine"),
        ("{{ [params.deep] | map(attribute='items') | first }}", [1, 2]),
        ("{{ params.keys() | list | length }}", 4),
    ],
)
def test_attributes_are_keys_first(text, value):
    assert one(text) == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{{ missing }}", ["`missing` is not defined", "params, nodes"]),
        ("x {{ missing }}", ["`missing` is not defined"]),
        ("{{ [missing] }}", ["`missing` is not defined"]),
        ("x {{ [missing] }}", ["`missing` is not defined"]),
        ("{{ {'a': missing} }}", ["`missing` is not defined"]),
        ("{{ [1] | map(attribute='x') }}", ["a number has no `x`"]),
        ("{{ param.city }}", ["`param` is not defined", "did you mean `params`?"]),
        ("{{ item }}", ["`item`", "for_each"]),
        ("{{ params.town }}", ["param `town` does not exist", "there is: city, count"]),
        ("{{ params.citi }}", ["did you mean `city`?"]),
        ("{{ vars.port }}", ["variable `port` does not exist", "host", "agentflow variables set"]),
        ("{{ secrets.token }}", ["secret `token` does not exist", "key", "agentflow secrets set"]),
        ("{{ nodes.load.output }}", ["node `load` does not exist", "fetch, fetch-page"]),
        ("{{ run.name }}", ["run field `name` does not exist", "logical_date"]),
        ("{{ nodes.fetch.output.word }}", ["no key `word`", "did you mean `words`?", "items, words, text"]),
        ("{{ nodes['fetch-page'].output.x }}", ["null has no `x`", "did not succeed"]),
        ("{{ params.deep['items'][7] }}", ["no item 7", "2"]),
        ("{{ params.city.nope }}", ["text has no `nope`"]),
        ("{{ params.keys }}", ["`keys` is a method"]),
        ("{{ nodes.fetch-page.output }}", ["nodes['fetch-page']"]),
        ("{{ params.deep['values'] }}", ["no key `values`"]),  # never the method
    ],
)
def test_what_is_missing_is_named_with_what_is_there(text, words):
    message = refusal(text)
    assert message.startswith("field: ")
    assert [word for word in words if word not in message] == []


def test_messages_never_hold_secret_values():
    assert "hunter2" not in refusal("{{ secrets.key.nope }} {{ secrets.key | int / 0 }}")
    assert "hunter2" not in refusal("{{ secrets.token }}")


def test_the_place_of_an_error_is_told():
    with pytest.raises(TemplateError, match=r"^args\.rows\[1\]: .*in \{\{ params\.nope \}\}$"):
        render({"args": {"rows": ["a", "{{ params.nope }}"]}}, CONTEXT)
    with pytest.raises(TemplateError, match=r"in line 3: c \{\{ params\.nope \}\}"):
        render("a\nb\nc {{ params.nope }}\nd", CONTEXT)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{{ params.nope | default('x') }}", "x"),
        ("{{ params.nope is defined }}", False),
        ("{{ params.none is none }}", True),
        ("{{ params.none | default('x', true) }}", "x"),
    ],
)
def test_default_and_defined_cope_with_missing_names(text, value):
    assert one(text) == value


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_shell_quote_gives_exactly_one_word(text):
    assert shlex.split(render("x {{ item | shell_quote }}", {"item": text})) == ["x", text]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{{ "it\'s; rm -rf /" | shell_quote }}', "'it'\"'\"'s; rm -rf /'"),
        ("{{ {'a': 'b c'} | shell_quote }}", '\'{"a": "b c"}\''),
        ("{{ 3 | shell_quote }} {{ true | shell_quote }} {{ none | shell_quote }}", "3 true null"),
        ("{{ {'b': 'ü', 'a': [1]} | json }}", '{"b": "ü", "a": [1]}'),
        ("{{ '<&>' | tojson }}", '"<&>"'),
        ("{{ [1] | json(indent=2) }}", "[\n  1\n]"),
        ("{{ '{\"a\": [1]}' | from_json }}", {"a": [1]}),
        ("{{ 'ü' | b64 }}", "w7w="),
        ("{{ '' | sha256 }}", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        ("{{ run.logical_date | date }}", "2026-10-25"),
        ("{{ run.logical_date | date('%H:%M %Z', 'Europe/Berlin') }}", "02:30 CET"),
        ("{{ '2026-10-25T00:30:00Z' | date('%H:%M %Z', 'Europe/Berlin') }}", "02:30 CEST"),
        ("{{ '2026-01-01T23:30:00' | date('%d', 'Asia/Tokyo') }}", "02"),
        ("{{ 0 | date('%Y-%m-%dT%H:%M') }}", "1970-01-01T00:00"),
        ("{{ 'aXbX' | replace('X', '.') }}", "a.b."),
        ("{{ 'aXbX' | replace('X', '.', 1) }}", "a.bX"),
        ("{{ 'a\\nb' | indent(2) }}", "a\n  b"),
        ("{{ 'a' | center(3) }}", " a "),
        ("{{ [1, 2, 3] | batch(2, 0) }}", [[1, 2], [3, 0]]),
        ("{{ [1, 2, 3] | slice(2) }}", [[1, 2], [3]]),
        ("{{ '%s-%03d' | format('a', 7) }}", "a-007"),
        ("{{ '{:>3}'.format(1) }}", "  1"),
        ("{{ [3, 1] | sort | join(',') }}", "1,3"),
    ],
)
def test_filters(text, value):
    assert one(text) == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{{ 'a\\u0000b' | shell_quote }}", "NUL"),
        ("{{ 'x' | from_json }}", "from_json: the text is not JSON"),
        ("{{ 3 | from_json }}", "from_json: needs a text"),
        ("{{ 'NaN' | from_json }}", "not JSON"),
        ("{{ none | date }}", "no logical_date"),
        ("{{ 'soon' | date }}", "is not a time"),
        ("{{ (10**40) | date }}", "is not a time"),
        ("{{ 0 | date('%Y', 'Mars/Base') }}", "no time zone 'Mars/Base'"),
        ("{{ 0 | date('%Y', '../../etc/passwd') }}", "no time zone"),
        ("{{ 0 | date('%Y', 'Europe') }}", "no time zone"),
        ("{{ [1] | json(indent=99) }}", "indent"),
        ("{{ missing | json }}", "`missing` is not defined"),
        ("{{ missing | shell_quote }}", "`missing` is not defined"),
        ("{{ missing | replace('a', 'b') }}", "`missing` is not defined"),
        ("{{ 'a' | nope }}", "there is no filter `nope`"),
        ("{{ 1 is nope }}", "there is no test `nope`"),
    ],
)
def test_filters_say_what_is_wrong(text, words):
    assert words in refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "{{ 'nan' | float }}",
        "{{ 'inf' | float }}",
        "{{ 'a'.encode() }}",
        "{{ {1: 2} }}",
        "{{ 'a'.upper }}",
        "{{ self }}",
        "{{ range }}",
        "{{ 1j }}",
        "{{ loop }}",
    ],
)
def test_values_that_are_not_json_are_refused(text):
    refusal(text)
    refusal("x " + text)


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__ }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''['__class__'] }}",
        "{{ '' | attr('__class__') }}",
        "{{ [''] | map(attribute='__class__') | list }}",
        "{{ [''] | map('attr', '__class__') | list }}",
        "{{ [''] | selectattr('__class__') | list }}",
        "{{ [''] | groupby('__class__') }}",
        "{{ [''] | sort(attribute='__class__.__name__') }}",
        "{{ ''.join.__self__.__class__ }}",
        "{{ ().__class__.__base__ }}",
        "{{ range.__globals__ }}",
        "{{ range.__init__.__globals__ }}",
        "{{ self.__init__.__globals__ }}",
        "{{ self._TemplateReference__context }}",
        "{% for x in [1] %}{{ loop.__class__ }}{% endfor %}",
        "{% for x in [1] %}{{ loop._iterable }}{% endfor %}",
        "{% macro m() %}{% endmacro %}{{ m.__globals__ }}",
        "{% macro m() %}{% endmacro %}{{ m._func }}",
        "{{ lipsum.__globals__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ joiner }}",
        "{{ namespace() }}",
        "{{ dict() }}",
        "{{ config }}",
        "{{ request }}",
        "{{ '{0.__class__}'.format(1) }}",
        "{{ '{0.__class__.__mro__}' | format(1) }}{{ '{0.__class__}'.format(1) }}",
        "{{ '{x.__class__}'.format(x=1) }}",
        "{{ '{x.__class__}'.format_map({'x': 1}) }}",
        "{% set f = '{0.__class__}'.format %}{{ f(1) }}",
        "{{ ('{0.__class__}' | attr('format'))(1) }}",
        "{{ ['{0.__class__}'] | map('attr', 'format') | first(1) }}",
        "{{ ('{0.__class__}' | safe).format(1) }}",
        "{{ params.update({'city': 'x'}) }}",
        "{{ params.deep['items'].append(3) }}",
        "{{ params.pop('city') }}",
        "{{ params.clear() }}",
        "{% set x = params.setdefault('new', 1) %}{{ x }}",
        "{{ (range(1) | map('string')).gi_frame }}",
        "{{ (1).__class__.__bases__ }}",
        "{{ missing.__class__ }}",
        "{{ missing._undefined_obj }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{% from 'os' import system %}",
        "{% extends 'base' %}",
        "{% block a %}{% endblock %}",
        "{% do params.clear() %}",
        "{% set params = 1 %}",
        "{% for nodes in [1] %}{% endfor %}",
        "{% set params.x = 1 %}",
    ],
)
def test_every_classic_sandbox_escape_is_refused(text):
    refusal(text)
    assert CONTEXT["params"]["city"] == "Berlin"


@pytest.mark.parametrize(
    "text",
    [
        "{{ 'a' * 10**9 }}",
        "{{ 10**9 * 'a' }}",
        "{{ [0] * 10**9 }}",
        "{{ range(10**9) }}",
        "{{ range(-(10**12), 10**12, 1) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%(x)-1000000000s' % {'x': 1} }}",
        "{{ '%.1000000000f' % 1.5 }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ '{:>1000000000}'.format(1) }}",
        "{{ '{:.1000000000f}'.format(1.5) }}",
        "{{ 'a'.ljust(10**9) }}",
        "{{ 'a'.rjust(10**9) }}",
        "{{ 'a'.center(10**9) }}",
        "{{ 'a'.zfill(10**9) }}",
        "{{ '\\t'.expandtabs(10**9) }}",
        "{{ ('a' * 10**6).replace('a', 'b' * 10**6) }}",
        "{{ ('a' * 10**6) | replace('a', 'b' * 10**6) }}",
        "{{ 'a' | center(10**9) }}",
        "{{ 'a\\nb' | indent(10**9) }}",
        "{{ [1] | batch(10**9, 0) }}",
        "{{ [1] | slice(10**9) }}",
        "{{ 10 ** (10 ** 9) }}",
        "{{ (2 ** 60000) * (2 ** 60000) }}",
        "{{ (1).to_bytes(10**9) }}",
        "{% set a = 'a' * 10**7 %}{{ a + a }}",
        "{% set a = 'a' * 10**7 %}{{ a }}{{ a }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ " + "(" * 500 + "1" + ")" * 500 + " }}",
        "{{ " + "+".join("1" * 2000) + " }}",
        "{{ " + "[" * 90 + "]" * 90 + " }}",
        "{{ " + "9" * 5000 + " }}",
        "{% if 1 %}" * 40 + "{% endif %}" * 40 + "{% for a in [1] %}" * 25 + "{% endfor %}" * 25,
        "{{ 1 }}" + "a" * MAX_TEMPLATE,
    ],
)
def test_bombs_are_refused_before_they_go_off(text):
    message = refusal(text)
    assert len(message) < 1000


def test_a_text_just_within_the_limit_is_fine():
    assert len(one(f"{{{{ 'a' * {MAX_TEXT} }}}}")) == MAX_TEXT
    assert one("{{ range(5, -10**9) }}") == []
    assert one("{{ range(100000) | length }}") == 100_000


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("{{ params.count > 2 }}", True),
        ("  {{ params.count }}\n", 3),  # a YAML block ends with a newline
        ("{{ '[1]' }}", "[1]"),
        (True, True),
        ([1, "{{ x }}"], [1, "{{ x }}"]),  # a literal is taken as it is
        ("no template", "no template"),
        (None, None),
    ],
)
def test_evaluate_gives_the_value_of_one_expression_or_a_literal(expression, value):
    assert evaluate(expression, CONTEXT) == value


@pytest.mark.parametrize("text", ["{{ 1 }}{{ 2 }}", "a {{ 1 }}", "{% if 1 %}1{% endif %}", "{# nothing #}"])
def test_evaluate_refuses_anything_but_one_expression(text):
    with pytest.raises(TemplateError, match="exactly one"):
        evaluate(text, CONTEXT)


def test_evaluate_tells_the_hint_of_an_invalid_expression():
    with pytest.raises(TemplateError, match=r"write nodes\['fetch-page'\]"):
        evaluate("{{ nodes.fetch-page.output }}", CONTEXT)


@pytest.mark.parametrize(("value", "held"), [(True, True), (False, False), (None, False)])
def test_a_condition_is_a_boolean_or_null(value, held):
    assert truth(value) is held


@pytest.mark.parametrize("value", [0, 1, "", "true", "false", [], {}, 1.0])
def test_any_other_condition_is_an_error(value):
    with pytest.raises(TemplateError, match="not true or false"):
        truth(value)


def test_nothing_of_a_template_runs_while_it_is_compiled():
    compile_template("{{ 10 ** (10 ** 9) }}{{ 'a' | center(10 ** 9) }}{{ 'a' * 10 ** 9 }}")


def test_the_cache_of_compiled_templates_is_bounded():
    for number in range(CACHE_SIZE + 50):
        compile_template(f"{{{{ {number} }}}}")
    assert _cached.cache_info().currsize == CACHE_SIZE
