"""Fan-out and join: count the words of several articles side by side, then merge the counts.

What to look at:

* The body of a `@workflow` function is plain Python that runs while the file is read. A loop over values that are
  known then (here: the files in a folder) makes one node each.
* A list of results is an argument like any other: `merge` waits for all of them and gets a list of their outputs.
* The branches have nothing to wait for but `PARALLELISM`, `pool` and `concurrency`; here at most four run at once.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from agentflow import node, workflow

ARTICLES = Path(__file__).parent / "data" / "articles"


@node
def count(article: str) -> dict[str, int]:
    """How often each word occurs in one article."""
    text = (ARTICLES / article).read_text(encoding="utf-8")
    return dict(Counter(re.findall(r"[a-z]{4,}", text.lower())))


@node
def merge(counts: list[dict[str, int]], top: int) -> list[list[str | int]]:
    """The most frequent words of all articles together."""
    total: Counter[str] = Counter()
    for part in counts:
        total.update(part)
    ranked = sorted(total.items(), key=lambda item: (-item[1], item[0]))[:top]
    for word, number in ranked:
        print(f"{number:4} {word}")
    return [[word, number] for word, number in ranked]


@workflow(name="word-count", title="Word count: fan out, join", tags=["example", "fan-out"], concurrency=4)
def word_count(top: int = 10) -> None:
    """Counts the words of every article at once and merges the counts."""
    counts = [count.named(f"count_{path.stem}")(path.name) for path in sorted(ARTICLES.glob("*.txt"))]
    merge(counts, top)
