"""Secrets and credentials stay where they belong."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from urllib.parse import quote

import pytest

from agentflow.workload import Outcome
from executors.conformance.harness import Harness, WithHarness

SECRET = "s3cr3t/with+signs&more"  # noqa: S105 - a value to look for


class Secrecy(WithHarness):
    """Nothing that people or other processes can read shows a secret."""

    def test_secrets_are_masked_in_logs_and_errors(self, harness: Harness) -> None:
        body = """
import base64, os, subprocess, sys, urllib.parse
print("plain", value)
print("json", repr({"key": value}))
print("url", urllib.parse.quote(value, safe=""))
print("base64", base64.b64encode(value.encode()).decode())
os.write(2, value.encode())
subprocess.run(["sh", "-c", "cat"], input=value.encode())
sys.stdout.write(value[:5]); sys.stdout.flush(); sys.stdout.write(value[5:])
raise RuntimeError(f"cannot log in with {value}")
"""
        workload = harness.python(body, args={"value": "{{ secrets.KEY }}"}, secrets={"KEY": SECRET})
        result = harness.run(workload)
        assert result.finished.outcome is Outcome.FAILED
        assert result.finished.error is not None
        seen = result.text + result.finished.error.model_dump_json()
        forms = [SECRET, quote(SECRET, safe=""), base64.b64encode(SECRET.encode()).decode()]
        assert [form for form in forms if form in seen] == []
        assert "cannot log in with ***" in result.finished.error.message

    def test_a_secret_across_the_cut_of_an_endless_line_is_masked(self, harness: Harness) -> None:
        body = "import os\nos.write(1, b'x' * 65530 + value.encode() + b'y' * 70000)"
        workload = harness.python(body, args={"value": "{{ secrets.KEY }}"}, secrets={"KEY": SECRET})
        text = harness.run(workload).text.replace("\n", "")
        assert SECRET not in text
        assert "***" in text

    def test_secrets_are_not_in_the_arguments_or_environment_of_any_process(self, harness: Harness) -> None:
        if not self.local_processes or not Path("/proc/self/environ").exists():
            pytest.skip("needs /proc")
        workload = harness.shell(
            'cat key >/dev/null; echo ready; read -r _ < "$FIFO"',
            config={"files": {"key": "{{ secrets.KEY }}"}, "env": {"FIFO": str(harness.folder / "fifo")}},
            secrets={"KEY": SECRET},
        )
        os.mkfifo(harness.folder / "fifo")
        harness.submit(workload)
        harness.wait_line(workload, "ready")
        needle = SECRET.encode()
        shown = [
            path
            for path in (*Path("/proc").glob("[0-9]*/cmdline"), *Path("/proc").glob("[0-9]*/environ"))
            if needle in _read(path)
        ]
        (harness.folder / "fifo").write_text("go\n")
        assert harness.wait_finished([workload])[0].finished.outcome is Outcome.SUCCESS
        assert shown == []

    def test_the_settings_of_the_scheduler_are_not_in_the_environment_of_user_code(self, harness: Harness) -> None:
        result = harness.run(harness.python("import os\nreturn sorted(os.environ)"))
        assert "AGENTFLOW_DATABASE_URL" not in result.output
        assert "AGENTFLOW_SECRET_KEY" not in result.output

    def test_user_code_is_found_in_its_bundle_first(self, harness: Harness) -> None:
        bundle = harness.context.bundles_dir / "abc"
        bundle.mkdir(parents=True)
        for name in ("scheduler", "executors", "webserver", "tests", "dags"):
            (bundle / f"{name}.py").write_text(f"def who():\n    return 'mine: {name}'\n")
        for name in ("scheduler", "executors", "webserver", "tests", "dags"):
            workload = harness.workload("python", {"function": f"{name}:who"}, bundle="abc")
            assert harness.run(workload).output == f"mine: {name}"

    def test_our_own_packages_are_not_there_by_accident(self, harness: Harness) -> None:
        if not self.local_processes:
            pytest.skip("attempts do not share this environment")
        body = "import importlib.util\nreturn importlib.util.find_spec('tests') is None"
        assert harness.run(harness.python(body)).output is True


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
