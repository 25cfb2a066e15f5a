"""A workflow within a workflow, mapped over a list and repeated until it is good enough: the shape of an agent loop.

What to look at:

* `draft-round` is a workflow of its own: one round of writing and reviewing. What it declares under `outputs` is what
  others get from it.
* `research` runs once per topic (`.map`): each index has its own attempts, retries and log, `research[1]` for one.
  `outline` gets the list of all results, in order.
* `write` runs `draft-round` again and again, until its review says 8 or more, at most five times. Each round is a run
  with an address: `agentflow logs RUN_ID 'write.sub[1].review'`. `nodes.write.output` is what the round before gave.
* A waiting sub-run holds no slot, so such loops may be as long as they like.

Run it with `agentflow run dags/draft_review.py::draft-review`.
"""

from __future__ import annotations

from typing import Any

from agentflow import node, workflow

NOTES = {
    "oceans": "cover most of the planet",
    "forests": "breathe",
    "deserts": "grow at night",
}


@node
def improve(topic_notes: list[str], before: dict[str, Any] | None) -> str:
    """A real one would ask a model: the notes and the last review in, a better draft out."""
    if before is None:
        return topic_notes[0]
    said = len(before["draft"].split(". "))
    return ". ".join(topic_notes[: said + 1])


@node
def review(draft: str, topic_notes: list[str]) -> int:
    """A score from 0 to 10: how many of the notes the draft uses."""
    used = sum(note in draft for note in topic_notes)
    print(f"the draft uses {used} of {len(topic_notes)} notes")
    return round(10 * used / len(topic_notes))


@workflow(
    name="draft-round",
    title="One round of writing",
    tags=["example"],
    params={"notes": {"type": "array", "default": []}, "before": {"default": None}},
    outputs={"draft": "{{ nodes.improve.output }}", "score": "{{ nodes.review.output }}"},
)
def draft_round(notes: list[str], before: dict[str, Any] | None) -> None:
    """Writes a draft and reviews it."""
    review(improve(notes, before), notes)


@node(retries=1)
def research(topic: str) -> str:
    """What is known about one topic."""
    return f"{topic.capitalize()} {NOTES[topic]}"


@node
def outline(findings: list[str]) -> list[str]:
    """The findings in the order in which they should be told."""
    return sorted(findings, key=len)


@workflow(name="draft-review", title="Write until it is good", tags=["example", "agents"])
def draft_review(topics: list[str] = ["oceans", "forests", "deserts"]) -> None:  # noqa: B006 - the default of a param
    """Researches topics side by side, then writes and reviews until the score is high enough."""
    notes = outline(research.map(topics))
    node.workflow(
        "write",
        name="draft-round",
        config={"params": {"notes": notes, "before": "{{ nodes.write.output }}"}},
        repeat={"until": "{{ nodes.write.output.score >= 8 }}", "max": 5},
    )
