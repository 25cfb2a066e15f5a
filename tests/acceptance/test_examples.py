"""Every example of `dags/` runs to success as its reader would run it: `agentflow run FILE`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from agentflow.postgres import EmbeddedPostgres
from executors.processes.nursery import remove_tree

ROOT = Path(__file__).parents[2]
DAGS = ROOT / "dags"
EXAMPLES = sorted(path.name for path in DAGS.iterdir() if path.suffix in (".py", ".yaml"))

#: Which workflow of a file with several is run.
PICKED = {"draft_review.py": "::draft-review"}
#: Node runs that do not end in success, and do not have to.
OTHER_STATES = {
    "support_triage.yaml": {"bug": "skipped", "other": "skipped"},
    "handled_failure.yaml": {"book_hotel": "failed", "confirm": "upstream_failed"},
    "http_call.yaml": {"ask": "skipped"},
    "shell_toolbox.yaml": {"archive": "skipped"},
    "invoice.yaml": {"reminder": "skipped"},
    "wait_for_data.yaml": {"late": "skipped"},
}


@pytest.fixture(scope="module")
def run_example():
    """`agentflow run dags/FILE --json` with a home of its own; gives the run it prints."""
    folder = Path(tempfile.mkdtemp(prefix="agentflow-examples-"))
    folder.chmod(0o755)  # as root the embedded server runs as another user, who must reach it
    home = folder / "home"

    def run(file: str, *arguments: str, exit_code: int = 0, **environment: str) -> dict:
        done = subprocess.run(
            [sys.executable, "-m", "agentflow", "run", f"dags/{file}", "--json", *arguments],
            cwd=ROOT,
            env={**os.environ, "AGENTFLOW_HOME": str(home), **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == exit_code, done.stdout + done.stderr
        return json.loads(done.stdout)

    server = EmbeddedPostgres(home)
    server.attach()  # each command would start and stop it
    yield run
    server.detach()
    remove_tree(folder)


def states(run: dict) -> dict[str, str]:
    return {node["node"]: node["state"] for node in run["nodes"]}


def outputs(run: dict) -> dict[str, object]:
    return {node["node"]: node["output"] for node in run["nodes"]}


@pytest.mark.parametrize("file", EXAMPLES)
def test_the_example_ends_in_success_as_it_is(file, run_example):
    run = run_example(f"{file}{PICKED.get(file, '')}")
    assert (run["state"], run["triggered_by"]) == ("success", "cli")
    expected = dict.fromkeys(states(run), "success") | OTHER_STATES.get(file, {})
    assert states(run) == expected


def test_the_flaky_step_took_three_attempts(run_example):
    run = run_example("flaky_retry.yaml")
    assert {node["node"]: node["attempt"] for node in run["nodes"]} == {"download": 3, "use": 1}
    assert outputs(run)["use"] == "128 rows after 3 attempts"


def test_bad_data_fails_the_etl_at_its_check(run_example):
    run = run_example("sales_etl.py", "--param", "max_bad_share=0.01", exit_code=1)
    assert run["state"] == "failed"
    assert states(run) == {
        "extract": "success",
        "check": "failed",
        "transform": "upstream_failed",
        "load": "upstream_failed",
    }


def test_the_booking_without_a_failure_is_confirmed(run_example):
    run = run_example("handled_failure.yaml", "--param", "sold_out=false")
    assert states(run)["cancel_flight"] == "skipped"
    assert outputs(run)["clean_up"] == "confirmed FL-2041; hotel: success"


def test_another_message_takes_another_branch(run_example):
    run = run_example("support_triage.yaml", "--param", "text=The app crashes when I save")
    assert states(run)["bug"] == "success"
    assert "Which version" in str(outputs(run)["reply"])


def test_the_long_pipeline_ran_every_generation(run_example):
    run = run_example("life_pipeline.py")
    assert len(run["nodes"]) == 62
    assert outputs(run)["show"] == {"generations": 60, "alive": 36}


def test_the_draft_is_written_again_until_its_review_is_good(run_example):
    run = run_example("draft_review.py::draft-review")
    write = next(node for node in run["nodes"] if node["node"] == "write")
    assert write["output"]["score"] == 10
    assert [sub["address"] for sub in write["sub_runs"]] == ["write.sub[0]", "write.sub[1]", "write.sub[2]"]
    assert [node["map_index"] for node in run["nodes"] if node["node"] == "research"] == [None, 0, 1, 2]


def test_the_delivery_is_waited_for_and_the_corrections_are_done_without(run_example, tmp_path):
    run = run_example("wait_for_data.yaml", "--param", f"folder={tmp_path}")
    assert outputs(run)["summary"] == "2 rows; corrections: skipped"
    assert {node["node"]: node["attempt"] for node in run["nodes"]}["arrived"] == 1
    assert outputs(run)["pause"]["waited_s"] >= 0.3
    assert list(tmp_path.iterdir()) == []


def test_the_http_node_asks_a_server_that_is_named(run_example):
    command = [sys.executable, "dags/lib/quotes_server.py", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            arguments = ("--param", f"base_url={url}")
            refused = run_example("http_call.yaml", *arguments, exit_code=1, AGENTFLOW_ALLOW_PRIVATE_HTTP="false")
            assert states(refused)["ask"] == "failed"
            run = run_example("http_call.yaml", *arguments, AGENTFLOW_ALLOW_PRIVATE_HTTP="true")
        finally:
            server.kill()
    assert states(run) == {"self_contained": "skipped", "ask": "success", "show": "success"}
    assert {node["node"]: node["attempt"] for node in run["nodes"]}["ask"] == 2  # the first answer is 503
