# Two commands do all: `make demo` and `make test`. `make help` lists the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help
UV_HOME := $(CURDIR)/.venvs/uv
UV := $(shell command -v uv 2>/dev/null || echo $(UV_HOME)/bin/uv)
RUN := .venv/bin
TORCH := .venvs/torch
QUALITY := .venvs/quality
PYTHON ?= python3
SEEDS ?= 5
HOURS ?= 1
COMMA := ,
PARALLEL := -n 2 --dist worksteal
WAITING := -n 3 --dist worksteal
PACKAGES := $(patsubst %/pyproject.toml,%,$(wildcard */pyproject.toml */*/pyproject.toml))
SERVICES := $(patsubst services/%,%,$(filter services/%,$(PACKAGES)))
# Each package's own tests; what needs a server or several packages at once is in tests/.
UNIT := $(wildcard $(addsuffix /tests,$(PACKAGES)))
# The time that files in wheels and archives carry: that of the commit, so that two builds of it are the same.
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null)
export SOURCE_DATE_EPOCH
# Without compiled modules, each of the tests' many processes compiles all that it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup setup-torch quality hooks demo test check lint consistent types unit contract integration servers test-torch reference-vectors e2e faults-short faults soak isolated \
	coverage audit bench up down docs freeze lock-jars golden format wheels images sbom clean

help: ## This list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

$(UV):
	$(PYTHON) -m venv $(UV_HOME)
	$(UV_HOME)/bin/pip install --quiet uv

.venv/.synced: $(UV) uv.lock pyproject.toml $(addsuffix /pyproject.toml,$(PACKAGES))
	$(UV) sync --locked
	@touch $@

setup: .venv/.synced ## Install everything but torch into .venv

$(TORCH)/.synced: $(UV) uv.lock pyproject.toml $(wildcard */pyproject.toml */*/pyproject.toml)
	UV_PROJECT_ENVIRONMENT=$(TORCH) $(UV) sync --locked --extra torch
	@touch $@

setup-torch: $(TORCH)/.synced ## Install the same with torch into .venvs/torch (5.5 GB): for GPUs, other architectures, baselines

$(QUALITY)/.synced: $(UV) uv.lock pyproject.toml $(wildcard */pyproject.toml */*/pyproject.toml)
	UV_PROJECT_ENVIRONMENT=$(QUALITY) $(UV) sync --locked --extra quality
	@touch $@

quality: $(QUALITY)/.synced ## Quality of search on judged sets; ARGUMENTS="--squad FILE" adds a set in SQuAD's format
	$(QUALITY)/bin/headrace-bench quality $(ARGUMENTS)

hooks: .venv/.synced ## Have git run the formatter and the linter before each commit
	$(RUN)/pre-commit install

demo: .venv/.synced ## Start the stack, index real text, search, ask, edit, delete, stop
	$(RUN)/python -m headrace_cli.demo

test: unit contract servers ## Every test that needs no torch: unit, contract, and those with servers

unit: .venv/.synced ## Tests without a server or network
	$(RUN)/python -m pytest -q -m unit $(PARALLEL) $(UNIT)

unit-3.%: $(UV)
	UV_PROJECT_ENVIRONMENT=.venvs/python-3.$* $(UV) sync --quiet --locked --python 3.$*
	.venvs/python-3.$*/bin/python -m pytest -q -m unit $(PARALLEL) $(UNIT)

contract: .venv/.synced ## One suite over memory and Kafka, schemas, documents
	$(RUN)/python -m pytest -q -m contract $(PARALLEL) tests/contract

integration: .venv/.synced ## Real Kafka, registry, PostgreSQL and model
	$(RUN)/python -m pytest -q -m "integration and not torch" $(PARALLEL) tests/integration infra/local/tests

# In one run, because they share one stack and wait for each other's servers; the longest tests start first.
servers: .venv/.synced ## integration, e2e and faults-short in one run
	$(RUN)/python -m pytest -q -m "(integration and not torch) or e2e or faults" -n 4 --dist worksteal \
		tests/faults tests/e2e tests/integration infra/local/tests

test-torch: $(TORCH)/.synced ## What needs torch: the embedder's graph beside the live model, other architectures
	$(TORCH)/bin/python -m pytest -q -m torch tests/integration

reference-vectors: $(TORCH)/.synced ## Record the packaged model's vectors by torch again, after a change of the model
	$(TORCH)/bin/python tests/integration/make_reference_vectors.py

e2e: .venv/.synced ## Processes, signals, the command line
	$(RUN)/python -m pytest -q -m e2e $(WAITING) tests/e2e

faults-short: .venv/.synced ## One seed of each row of the fault matrix, and the mutants that must turn the checkers red
	$(RUN)/python -m pytest -q -m faults tests/faults $(WAITING)

faults: .venv/.synced ## Every row of the fault matrix; SEEDS=20 for seeds 1 to 20, or SEEDS=7,100-120
	HEADRACE_FAULT_SEEDS="$(if $(findstring -,$(SEEDS))$(findstring $(COMMA),$(SEEDS)),$(SEEDS),1-$(SEEDS))" \
	HEADRACE_FAULT_ROUNDS=5 $(RUN)/python -m pytest -q -m faults tests/faults

soak: .venv/.synced ## Every row and storms with new seeds for HOURS=n
	$(RUN)/headrace-bench soak --hours $(HOURS)

# The floors are what the tests reach, rounded down; they go up with it. Most of the store needs PostgreSQL, and is
# covered by the integration tests.
coverage: .venv/.synced ## Branches of the runtime and the store that unit and contract tests reach; fails below the floor
	$(RUN)/python -m pytest -q -m "unit or contract" $(PARALLEL) $(UNIT) tests/contract --cov --cov-report=
	$(RUN)/coverage report --include='*/headrace/runtime/*' --fail-under=97
	$(RUN)/coverage report --include='*/headrace/store/*' --fail-under=60

check: types lint consistent isolated ## Lint, types, import contracts, dependencies, generated documents, each service alone

lint: .venv/.synced ## Style, format and import contracts
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/lint-imports

consistent: .venv/.synced ## Dependencies as imported, generated documents as generated, a valid docker-compose.yml
	$(RUN)/python -m headrace_tools.dependencies
	$(RUN)/python -m headrace_tools.reference --check
	$(RUN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml

types: .venv/.synced ## Types, strictly
	$(RUN)/mypy

isolated: $(UV) ## Each service imports and passes its unit tests with its own dependencies only
	printf '%s\n' $(SERVICES) | xargs -P 2 -I SERVICE bash infra/isolated.sh "$(UV)" SERVICE

audit: $(UV) ## Compare every locked dependency with published advisories; needs the network
	@mkdir -p .venvs
	$(UV) export --quiet --locked --all-packages --all-extras --all-groups --no-emit-workspace --output-file .venvs/locked.txt
	$(UV) run --quiet --isolated --locked --only-group audit pip-audit --strict --vulnerability-service osv \
		--disable-pip --require-hashes --requirement .venvs/locked.txt

bench: $(TORCH)/.synced ## Every benchmark beside its baseline, with torch for that of the embedder
	$(TORCH)/bin/headrace-bench all --json

up: .venv/.synced ## Start the local stack
	$(RUN)/headrace up

down: .venv/.synced ## Stop it
	$(RUN)/headrace down

docs: .venv/.synced ## Write the generated reference
	$(RUN)/python -m headrace_tools.reference

freeze: .venv/.synced ## Freeze the schemas as released
	$(RUN)/python -m headrace_tools.frozen

lock-jars: .venv/.synced ## Lock the local stack's files from Maven by their SHA-256
	$(RUN)/python -m headrace_local.lock_jars

golden: .venv/.synced ## Freeze the command line's help and JSON as they are now
	REWRITE_GOLDEN=1 $(RUN)/python -m pytest -q cli/tests -k golden

format: .venv/.synced ## Repair what can be repaired, then format
	$(RUN)/ruff check --fix-only --exit-zero .
	$(RUN)/ruff format .

wheels: $(UV) ## Build a wheel and a source archive of every package into dist/
	rm -rf dist
	$(UV) build --quiet --all-packages --out-dir dist

images: ## Build a container image of every service, of the migration step and of the embedder
	docker compose build

sbom: $(UV) ## Write what each wheel depends on into dist/, in CycloneDX
	@mkdir -p dist
	$(UV) export --quiet --locked --all-packages --all-extras --no-dev --format cyclonedx1.5 --output-file dist/headrace.cdx.json

clean: ## Remove environments, caches and built packages; the state folder stays
	rm -rf .venv .venvs .mypy_cache .ruff_cache .import_linter_cache .coverage dist
