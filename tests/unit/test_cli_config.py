from __future__ import annotations

import json

import pytest

from agentflow.cli import checks, config, main
from agentflow.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def _nothing_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(f"AGENTFLOW_{name.upper()}", raising=False)
    monkeypatch.setenv("AGENTFLOW_HOME", str(tmp_path / "home"))


def test_every_setting_is_listed_with_its_origin(tmp_path, monkeypatch, capsys):
    (tmp_path / "agentflow.toml").write_text('parallelism = 3\nlog_level = "ERROR"\n')
    monkeypatch.setenv("AGENTFLOW_LOG_LEVEL", "WARNING")
    assert main.main(["config", "--json"]) == 0
    items = {item["name"]: item for item in json.loads(capsys.readouterr().out)["items"]}
    assert set(items) == {f"AGENTFLOW_{name.upper()}" for name in Settings.model_fields}
    assert (items["AGENTFLOW_PARALLELISM"]["value"], items["AGENTFLOW_PARALLELISM"]["origin"]) == (3, "agentflow.toml")
    assert (items["AGENTFLOW_LOG_LEVEL"]["value"], items["AGENTFLOW_LOG_LEVEL"]["origin"]) == ("WARNING", "environment")
    assert items["AGENTFLOW_EXECUTOR"]["origin"] == "default"
    assert items["AGENTFLOW_DAGS_FOLDER"]["value"] == str(tmp_path / "home" / "dags")
    assert all(item["description"] for item in items.values())


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("database_url", "postgresql://me:secret@host:5432/db", "postgresql://me:***@host:5432/db"),
        ("database_url", "postgresql://me@host/db?password=secret&x=1", "postgresql://me@host/db?password=***&x=1"),
        ("database_url", "postgresql://host/db", "postgresql://host/db"),
        ("database_url", "", ""),
        ("secret_key", "abc", "***"),
        ("executor", "local", "local"),
        ("parallelism", 4, 4),
    ],
)
def test_passwords_are_not_shown(name, value, shown):
    assert config.mask(name, value) == shown


def test_a_wrong_setting_is_wrong_usage_and_names_it(monkeypatch, capsys):
    monkeypatch.setenv("AGENTFLOW_PARALLELISM", "many")
    assert main.main(["config", "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["type"] == "settings"
    assert "AGENTFLOW_PARALLELISM" in error["detail"]


class TestChecks:
    def test_a_home_that_can_be_made_is_well(self, tmp_path):
        assert checks.check_home(load_settings(home=tmp_path / "a" / "b")).status == "ok"

    def test_a_full_disk_is_a_warning(self, tmp_path, monkeypatch):
        monkeypatch.setattr(checks, "FREE_MIN", 2**80)
        assert checks.check_home(load_settings(home=tmp_path)).status == "warning"

    def test_a_closed_home_is_a_failure(self, tmp_path, monkeypatch):
        monkeypatch.setattr("os.access", lambda *_: False)
        found = checks.check_home(load_settings(home=tmp_path))
        assert found.status == "failed"
        assert "AGENTFLOW_HOME" in found.hint

    def test_a_missing_dags_folder_is_a_warning(self, tmp_path):
        assert checks.check_dags(load_settings(dags_folder=tmp_path / "none")).status == "warning"
        assert checks.check_dags(load_settings(dags_folder=tmp_path)).status == "ok"

    def test_an_executor_that_is_not_installed_is_a_failure(self):
        found = checks.check_executor("nomad")
        assert found.status == "failed"
        assert "local" in found.hint

    def test_an_unknown_postgres_is_a_failure(self):
        assert checks.check_binaries(load_settings(embedded_postgres_major=9)).status == "failed"
