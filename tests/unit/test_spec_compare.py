"""What differs between two documents."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.spec.compare import compare

BASE = {
    "name": "flow",
    "timeout": "1h",
    "nodes": {
        "a": {"type": "noop", "config": {"output": [1, 2]}},
        "b": {"type": "noop", "needs": ["a"], "retries": 1},
        "c": {"type": "noop", "needs": ["a", "b"]},
    },
}
NOTHING = {
    "identical": True,
    "keys": [],
    "nodes": {"added": [], "removed": [], "changed": {}},
    "edges": {"added": [], "removed": []},
}


def edited(**changes):
    document = copy.deepcopy(BASE)
    for path, value in changes.items():
        *steps, last = path.split("__")
        place = document
        for step in steps:
            place = place[step]
        if value is None:
            del place[last]
        else:
            place[last] = value
    return document


CASES = {
    "a key added": (edited(description="new"), {"keys": [{"path": "description", "after": "new"}]}),
    "a key removed": (edited(timeout=None), {"keys": [{"path": "timeout", "before": "1h"}]}),
    "a key changed": (edited(timeout="2h"), {"keys": [{"path": "timeout", "before": "1h", "after": "2h"}]}),
    "a node added": (edited(nodes__d={"type": "noop"}), {"nodes": {"added": ["d"], "removed": [], "changed": {}}}),
    "a node removed takes its edges": (
        edited(nodes__c=None),
        {
            "nodes": {"added": [], "removed": ["c"], "changed": {}},
            "edges": {"added": [], "removed": [["a", "c"], ["b", "c"]]},
        },
    ),
    "a value deep in a node": (
        edited(nodes__a__config__output=[1, 3]),
        {
            "nodes": {
                "added": [],
                "removed": [],
                "changed": {"a": [{"path": "config.output", "before": [1, 2], "after": [1, 3]}]},
            }
        },
    ),
    "an edge is no change of the node": (
        edited(nodes__c__needs=["b"]),
        {"edges": {"added": [], "removed": [["a", "c"]]}},
    ),
    "the order of needs is none": (edited(nodes__c__needs=["b", "a"]), {}),
    "1 and 1.0 are the same number": (edited(nodes__b__retries=1.0), {}),
    "1 and true are not": (
        edited(nodes__b__retries=True),
        {
            "nodes": {
                "added": [],
                "removed": [],
                "changed": {"b": [{"path": "retries", "before": 1, "after": True}]},
            }
        },
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_changes(case):
    after, expected = CASES[case]
    assert compare(BASE, after) == NOTHING | {"identical": not expected} | expected


@pytest.mark.parametrize("nodes", [None, [], {"a": None}, {"a": {"needs": 5}}, {"a": []}])
def test_drafts_that_are_no_workflows_yet_are_compared_too(nodes):
    document = {"name": "x", "nodes": nodes} if isinstance(nodes, dict) else {"name": "x"}
    assert not compare(BASE, document)["identical"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
DOCUMENTS = st.fixed_dictionaries(
    {"nodes": st.dictionaries(st.text("abc", min_size=1, max_size=2), st.dictionaries(st.text(max_size=3), JSON))},
    optional={"title": JSON},
)


@given(DOCUMENTS)
def test_a_document_is_identical_to_itself(document):
    assert compare(document, copy.deepcopy(document))["identical"]


@given(DOCUMENTS, DOCUMENTS)
def test_there_and_back_are_each_other_mirrored(one, other):
    there, back = compare(one, other), compare(other, one)
    assert sorted(there["nodes"]["added"]) == sorted(back["nodes"]["removed"])
    assert there["edges"]["added"] == back["edges"]["removed"]
    assert there["nodes"]["changed"].keys() == back["nodes"]["changed"].keys()
    assert [change["path"] for change in there["keys"]] == [change["path"] for change in back["keys"]]
