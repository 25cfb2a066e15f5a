"""Names of rooms."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow.errors import UsageError
from webserver.live.rooms import RoomName, parse_room

RUN = "0190a8f0-0000-7000-8000-000000000000"


@pytest.mark.parametrize(
    ("name", "room"),
    [
        ("workspace", RoomName("workspace")),
        ("workflow:nightly", RoomName("workflow", "nightly")),
        (f"run:{RUN}", RoomName("run", RUN)),
        (f"logs:{RUN}/fetch[3]/1", RoomName("logs", RUN, "fetch[3]", 1)),
        (f"logs:{RUN}/loop.sub[2].fetch/12", RoomName("logs", RUN, "loop.sub[2].fetch", 12)),
    ],
)
def test_every_kind(name: str, room: RoomName) -> None:
    assert parse_room(name) == room


@pytest.mark.parametrize(
    "name", ["", "workspaces", "workflow:", "run:", f"logs:{RUN}", f"logs:{RUN}/a/0", f"logs:{RUN}/a/b/1", "x:y"]
)
def test_others_are_refused_with_examples(name: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_room(name)
    assert "workspace, workflow:" in error.value.hint


@given(st.text(max_size=200))
def test_no_text_does_worse_than_that(name: str) -> None:
    with contextlib.suppress(UsageError):
        parse_room(name)
