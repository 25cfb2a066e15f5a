"""Live progress of one run on stderr: a tree of nodes in a terminal, one line per change elsewhere.

`watch(fetch, wait)` reads the run's document again and again until the run has ended. Drawing never slows the
engine: a document that takes long to read is read less often.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Self

from agentflow.cli import output, progress_rows, style
from agentflow.clock import Clock, utc_now
from agentflow.states import NODE_RUN_FINAL, RUN_FINAL, NodeRunState

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

IDLE_POLL = 0.5  #: Seconds between reads when no news comes.
MIN_GAP = 0.05  #: Seconds between reads when news comes all the time.
MAX_GAP = 5.0  #: Seconds; even a run that is slow to read is shown this often.
FRAMES_PER_SECOND = 5  #: Durations tick on their own between reads.
_CHROME = 4  #: Lines of the view that are not nodes: head, bar, rest, the cursor's.
#: States worth a line of their own in plain output; the others pass in milliseconds.
_TOLD = NODE_RUN_FINAL | {NodeRunState.RUNNING, NodeRunState.RETRYING, NodeRunState.DEFERRED}


class RunView:
    """Shows a run's documents as they come; a context manager, so that the terminal is whole again afterwards."""

    def __init__(self, console: Console | None = None, *, clock: Clock = utc_now) -> None:
        self._console = console or output.stderr()
        self._clock = clock
        self._document: output.Document | None = None
        self._live: Live | None = None
        self._stack = contextlib.ExitStack()
        self._told: dict[str, tuple[str, int]] = {}
        self._run_state: str | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            from rich.live import Live

            # stdout stays as it is: `--json` prints its document there.
            self._live = Live(
                console=self._console,
                refresh_per_second=FRAMES_PER_SECOND,
                redirect_stdout=False,
                get_renderable=self._frame,
                vertical_overflow="crop",
            )
            self._stack.enter_context(self._live)
            self._stack.enter_context(output.live_on(self._console))
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stack.close()  # draws the last frame and leaves it
        self._live = None

    def update(self, document: output.Document) -> None:
        """Show this state of the run."""
        self._document = document
        if self._live is None:
            self._tell_changes(document)

    # -- a terminal --

    def _frame(self) -> Group:
        from rich.console import Group
        from rich.text import Text

        document = self._document
        if document is None:
            return Group(Text("waiting for the run", "dim"))
        width, height = self._console.size
        now = self._clock()
        rows = progress_rows.choose(document["nodes"], max(1, height - _CHROME), now)
        lines = [self._head(document, now), self._bar(document, width)]
        label_width = min(max([len(row.label) + 3 * row.depth for row in rows.shown], default=0), max(8, width // 2))
        lines += [self._row(row, label_width) for row in rows.shown]
        if rows.hidden:
            rest = ", ".join(f"{count} {state}" for state, count in rows.hidden.most_common())
            lines.append(Text(f"  … {rows.hidden.total()} more: {rest}", "dim"))
        for line in lines:
            line.no_wrap = True
            line.overflow = "ellipsis"
        return Group(*lines)

    def _head(self, document: output.Document, now: datetime) -> Text:
        from rich.text import Text

        state = document["state"]
        seconds = progress_rows.seconds_of(document, now)
        return Text.assemble(
            (f"{self._glyph(state)} {state}", style.look(state).style),
            ("  " + output.duration_text(seconds) if seconds is not None else "", ""),
            (f"  {output.clean(document['workflow'])}", "bold"),
            (f"  {document['id']}", "dim"),
        )

    def _bar(self, document: output.Document, width: int) -> Text:
        from rich.text import Text

        states = progress_rows.counts(document["nodes"])
        total = states.total()
        finished = progress_rows.done(states)
        cells = max(5, min(30, width // 3))
        full = cells if not total else cells * finished // total
        solid, empty = ("━", "─") if self._unicode else ("#", "-")
        text = Text.assemble((solid * full, "green"), (empty * (cells - full), "dim"), f" {finished}/{total}")
        for state in style.LOOKS:
            if states[state]:
                text.append(f"  {self._glyph(state)} {states[state]}", style.look(state).style)
        return text

    def _row(self, row: progress_rows.Row, label_width: int) -> Text:
        from rich.text import Text

        look = style.look(row.state)
        label = Text(("   " * row.depth) + output.clean(row.label))
        label.truncate(label_width, overflow="ellipsis", pad=True)
        return Text.assemble(
            (self._glyph(row.state), look.style),
            " ",
            label,
            (f"  {output.duration_text(row.seconds) if row.seconds is not None else '':>7}", "dim"),
            (f"  {row.detail}" if row.detail else "", look.style if row.state == NodeRunState.FAILED else "dim"),
        )

    @property
    def _unicode(self) -> bool:
        return not self._console.options.ascii_only

    def _glyph(self, state: str) -> str:
        return style.glyph(state, encoding=self._console.encoding)

    # -- not a terminal --

    def _tell_changes(self, document: output.Document) -> None:
        now = self._clock()
        if self._run_state is None:
            self._tell(now, f"run {document['id']}", "of", document["workflow"])
        for node in document["nodes"]:
            seen = (node["state"], node["attempt"])
            name = progress_rows.node_name(node)
            if self._told.get(name) != seen:
                self._told[name] = seen
                if node["state"] in _TOLD:
                    self._tell_node(name, node, now)
        if self._run_state != document["state"]:
            seconds = progress_rows.seconds_of(document, now)
            took = output.duration_text(seconds) if document["state"] in RUN_FINAL and seconds is not None else ""
            self._tell(now, f"run {document['id']}", document["state"], took)
        self._run_state = document["state"]

    def _tell_node(self, name: str, node: output.Document, now: datetime) -> None:
        row = progress_rows.row_of(node, now)
        final = row.state in NODE_RUN_FINAL
        started = node["started_at"] if row.state == NodeRunState.RUNNING else None
        stamp = output.read_time(node["finished_at"] if final else started) or now
        took = output.duration_text(row.seconds) if final and row.seconds is not None else ""
        self._tell(stamp, name, row.state, "  ".join(part for part in (took, row.detail) if part))

    def _tell(self, at: datetime, name: str, state: str, detail: str) -> None:
        line = f"{at:%H:%M:%S}.{at.microsecond // 1000:03}  {output.clean(name)}  {state}  {detail}"
        self._console.print(line.rstrip(), soft_wrap=True)


def watch(
    fetch: Callable[[], output.Document],
    wait: Callable[[float], object],
    *,
    view: RunView | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> output.Document:
    """Show a run until it has ended; returns its last document.

    Args:
        fetch: Reads the run's document with its `nodes`.
        wait: Returns after so many seconds, or earlier when there may be news (an event, a NOTIFY).
        view: Where to show it; a fresh one by default.
        sleep: Replaceable for tests.
    """
    before = math.inf
    with view or RunView() as shown:
        while True:
            began = time.monotonic()
            document = fetch()
            shown.update(document)
            if document["state"] in RUN_FINAL:
                return document
            # Reading takes at most a fifth of the time: the run itself may be on this machine. One slow read among
            # quick ones (the database was away) is no reason to slow down.
            cost, before = min(before, time.monotonic() - began), time.monotonic() - began
            gap = min(max(MIN_GAP, 4 * cost), MAX_GAP)
            sleep(gap)
            wait(max(0.0, IDLE_POLL - gap))
