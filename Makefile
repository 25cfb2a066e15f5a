# Needs only make and a Python: `make run` in a fresh clone bootstraps everything into .venv.
SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BENCH_FLAGS ?=
CHAOS_FLAGS ?=
TEST_FLAGS ?=

.PHONY: help run test lint format bench bench-scale chaos migrate clean

help: ## Show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

run: $(READY) ## Start AgentFlow here: embedded Postgres, migrations, scheduler, webserver
	@$(BIN)/agentflow standalone

test: $(READY) ## Run the tests (TEST_FLAGS="-k name" for some of them)
	@$(BIN)/pytest -n logical --maxprocesses 4 --dist worksteal $(TEST_FLAGS)

lint: $(READY) ## Check style, types and who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY) ## Format the code and fix what can be fixed
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: $(READY) ## Measure; table on the terminal, JSON in bench-results/
	@$(BIN)/python tests/benchmarks $(BENCH_FLAGS)

bench-scale: $(READY) ## Measure large runs, long histories, many schedules: up to 15 minutes
	@$(BIN)/python tests/benchmarks --scale $(BENCH_FLAGS)

chaos: $(READY) ## Kill and stop everything at random for three minutes; what was promised must hold
	@$(BIN)/python -m tests.chaos $(CHAOS_FLAGS)

migrate: $(READY) ## Bring the database of the settings to the newest schema
	@$(BIN)/agentflow db upgrade

clean: ## Remove the environment, caches and build results; the data in AGENTFLOW_HOME stays
	rm -rf $(VENV) build dist bench-results .mypy_cache .ruff_cache .pytest_cache .hypothesis .grimp_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml uv.lock .ci/bootstrap
	@.ci/bootstrap $(VENV)
	@touch $@
