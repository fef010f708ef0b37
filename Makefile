# Two commands do all: `make demo` and `make test`. `make help` lists the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help
UV_HOME := $(CURDIR)/.venvs/uv
UV := $(shell command -v uv 2>/dev/null || echo $(UV_HOME)/bin/uv)
RUN := .venv/bin
PYTHON ?= python3
SEEDS ?= 5
HOURS ?= 1
COMMA := ,
PARALLEL := -n 2 --dist worksteal
WAITING := -n 3 --dist worksteal
SERVICES := ingest chunker embedder indexer generator gateway

.PHONY: help setup demo test check unit contract integration e2e faults-short faults soak isolated bench up down docs freeze golden format clean

help: ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(UV):
	$(PYTHON) -m venv $(UV_HOME)
	$(UV_HOME)/bin/pip install --quiet uv

.venv/.synced: $(UV) uv.lock pyproject.toml $(wildcard */pyproject.toml */*/pyproject.toml)
	$(UV) sync --locked
	@touch $@

setup: .venv/.synced ## Install everything that the lock names into .venv

demo: .venv/.synced ## Start the stack, index real text, search, ask, edit, delete, stop
	$(RUN)/python -m headrace_cli.demo

test: unit contract integration e2e faults-short ## Every test: unit, contract, integration, end to end, a seed of each fault

unit: .venv/.synced ## Tests without processes or network
	$(RUN)/python -m pytest -q -m unit $(PARALLEL)

contract: .venv/.synced ## One suite over memory and Kafka, schemas, documents
	$(RUN)/python -m pytest -q -m contract $(PARALLEL)

integration: .venv/.synced ## Real Kafka, registry, PostgreSQL and model
	$(RUN)/python -m pytest -q -m integration $(PARALLEL)

e2e: .venv/.synced ## Processes, signals, the command line
	$(RUN)/python -m pytest -q -m e2e $(WAITING)

faults-short: .venv/.synced ## One seed of each row of the fault matrix, and the mutants that must turn the checkers red
	$(RUN)/python -m pytest -q -m faults tests/faults $(WAITING)

faults: .venv/.synced ## Every row of the fault matrix; SEEDS=20 for seeds 1 to 20, or SEEDS=7,100-120
	HEADRACE_FAULT_SEEDS="$(if $(findstring -,$(SEEDS))$(findstring $(COMMA),$(SEEDS)),$(SEEDS),1-$(SEEDS))" \
	HEADRACE_FAULT_ROUNDS=5 $(RUN)/python -m pytest -q -m faults tests/faults

soak: .venv/.synced ## Every row and storms with new seeds for HOURS=n
	$(RUN)/headrace-bench soak --hours $(HOURS)

check: .venv/.synced ## Lint, types, import contracts, dependencies, generated documents, each service alone
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	$(RUN)/lint-imports
	$(RUN)/python -m headrace_tools.dependencies
	$(RUN)/python -m headrace_tools.reference --check
	$(RUN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
	$(MAKE) --no-print-directory isolated

isolated: $(UV) ## Each service imports and passes its unit tests with its own dependencies only
	printf '%s\n' $(SERVICES) | xargs -P 2 -I SERVICE bash infra/isolated.sh "$(UV)" SERVICE

bench: .venv/.synced ## Every benchmark beside its baseline
	$(RUN)/headrace-bench all --json

up: .venv/.synced ## Start the local stack
	$(RUN)/headrace up

down: .venv/.synced ## Stop it
	$(RUN)/headrace down

docs: .venv/.synced ## Write the generated reference anew
	$(RUN)/python -m headrace_tools.reference

freeze: .venv/.synced ## Freeze the schemas as released
	$(RUN)/python -m headrace_tools.frozen

format: .venv/.synced ## Format the code
	$(RUN)/ruff format .
	$(RUN)/ruff check --fix .

golden: .venv/.synced ## Freeze the command line's help and JSON as they are now
	REWRITE_GOLDEN=1 $(RUN)/python -m pytest -q cli/tests -k golden

clean: ## Remove environments and caches; the state folder stays
	rm -rf .venv .venvs .mypy_cache .ruff_cache .import_linter_cache
