"""The engine beside the web server, over the same database."""

from __future__ import annotations

import pytest


@pytest.fixture
def kit(web, tmp_path):
    """The engine, run by hand: what the API starts, it runs."""
    from tests.engine_kit import Kit

    folder = tmp_path / "kit"
    folder.mkdir()
    kit = Kit(web.engine, folder)
    yield kit
    kit.close()
    kit.check_books()
