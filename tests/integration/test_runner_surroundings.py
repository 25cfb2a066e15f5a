"""What runner processes must not have, and must not leave behind, whichever executor made them."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest

pytest.register_assert_rewrite("executors.conformance")

from agentflow.bundles import build_bundle, extract_bundle  # noqa: E402 - after the rewrite is registered
from agentflow.workload import Outcome  # noqa: E402
from executors.conformance.harness import Harness  # noqa: E402
from executors.local import LocalExecutor  # noqa: E402
from executors.subprocess import SubprocessExecutor  # noqa: E402

URL, KEY, PASSWORD = "postgresql://u:hidden-password@db/x", "hidden-key", "hidden-pgpassword"


@pytest.fixture(params=[LocalExecutor, SubprocessExecutor])
def harness(request, tmp_path, monkeypatch):
    monkeypatch.setenv("AGENTFLOW_DATABASE_URL", URL)
    monkeypatch.setenv("AGENTFLOW_SECRET_KEY", KEY)
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    harness = Harness(request.param, tmp_path, parallelism=2)
    yield harness
    harness.executor.stop(0)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_no_process_below_the_scheduler_has_its_credentials(harness):
    workload = harness.shell("echo ready; sleep 600")
    harness.submit(workload)
    harness.wait_line(workload, "ready")
    below = psutil.Process().children(recursive=True)
    assert len(below) >= 4  # zygote, runner, bash, sleep
    for process in below:
        if process.status() == psutil.STATUS_ZOMBIE:  # of another test's; it has no environment
            continue
        for place in ("environ", "cmdline"):
            text = Path(f"/proc/{process.pid}/{place}").read_bytes()
            assert b"hidden-" not in text, (process.name(), place)
            assert b"AGENTFLOW_DATABASE_URL" not in text
            assert b"AGENTFLOW_SECRET_KEY" not in text
    harness.executor.cancel([workload.attempt_id])
    harness.wait_finished([workload])


def test_a_bundle_stays_as_it_was_extracted(harness, tmp_path):
    source = tmp_path / "source"
    (source / "pack").mkdir(parents=True)
    (source / "pack" / "__init__.py").write_text("")
    (source / "pack" / "mine.py").write_text("def give():\n    return 7\n")
    bundle = build_bundle(source)
    folder = extract_bundle(bundle.data, bundle.hash, harness.context.bundles_dir)
    before = sorted(folder.rglob("*"))
    result = harness.run(harness.workload("python", {"function": "pack.mine:give"}, bundle=bundle.hash))
    assert result.finished.outcome is Outcome.SUCCESS
    assert sorted(folder.rglob("*")) == before
