# Everything a person or CI does with this project. `make` alone explains itself.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input -q
SOURCES := proxy optimizer policies tests loadtests deploy monitoring
# Half of the tests wait for processes; a file stays together, because its tests share them.
PARALLEL := -n 2 --dist loadfile

.PHONY: help
help: ## Show this text
	@echo "LLM Auto Optimizer. Start with: make demo"
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.PHONY: python
python:
	@bash deploy/python-check.sh "$(PYTHON)"

$(VENV)/bin/python: | python
	@echo "making the virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: requirements/demo.txt requirements/build.txt pyproject.toml | $(VENV)/bin/python
	@echo "installing pinned dependencies (hashes checked)"
	@$(PIP) install --require-hashes -r requirements/build.txt -r requirements/demo.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.runtime
	@echo "installing pinned development tools"
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@

.PHONY: page
page: $(VENV)/.runtime ## Build the operator's page (with its own Node.js, from the Python index, where the system has none)
	@$(BIN)/python deploy/packaging/page.py ready || { echo "installing Node.js into $(VENV)"; $(PIP) install --require-hashes -r requirements/page.txt; }
	@$(BIN)/python deploy/packaging/page.py build

# The product works without its page, and says at /ui how to build it.
.PHONY: page-if-possible
page-if-possible: $(VENV)/.runtime
	@$(MAKE) --no-print-directory -s page || echo "the page could not be built; everything else works without it"

.PHONY: demo
demo: page-if-possible ## Watch the optimizer learn on three simulated models (no keys, no servers; DEMO="--keep" leaves it running)
	@$(BIN)/llm-optimizer demo $(DEMO)

.PHONY: cluster-demo
cluster-demo: $(VENV)/.dev ## Two nodes with Kafka, Redis and PostgreSQL: canary, rollback, Kafka killed, nothing lost (CLUSTER_DEMO="--stage compose" with Docker)
	@$(BIN)/python -m deploy.demo $(CLUSTER_DEMO)

.PHONY: serve
serve: page-if-possible ## Run the product with config.yaml
	@$(BIN)/llm-optimizer serve --config config.yaml

.PHONY: system
system:
	@bash deploy/system-packages.sh

.PHONY: lint
lint: $(VENV)/.dev
	@$(BIN)/ruff format --check -q $(SOURCES) || { echo "run: make format"; exit 1; }
	@$(BIN)/ruff check -q $(SOURCES)
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

.PHONY: page-check
page-check: $(VENV)/.dev page
	@$(BIN)/python deploy/packaging/page.py check

.PHONY: format
format: $(VENV)/.dev ## Format the sources and apply safe fixes
	@$(BIN)/ruff format -q $(SOURCES)
	@$(BIN)/ruff check -q --fix $(SOURCES) || true

.PHONY: check
check: lint page-check ## The fast part of the tests (< 2 minutes)
	@$(BIN)/python -m pytest -q $(PARALLEL) -m "not slow and not long and not nodes"

.PHONY: test
test: system lint page-check ## What CI runs: format, lint, types, import contracts, tests (< 15 minutes)
	@$(BIN)/python -m pytest -q $(PARALLEL) -m "not long and not nodes"

.PHONY: test-long
test-long: system $(VENV)/.dev ## Tests that take half a minute and more each: soak, kills at random moments, whole strategies
	@$(BIN)/python -m pytest -q $(PARALLEL) -m long

.PHONY: test-nodes
test-nodes: system $(VENV)/.dev ## Clusters of real processes on Kafka, Redis and PostgreSQL: takeovers, faults, the demo (10 minutes)
	@$(BIN)/python -m pytest -q $(PARALLEL) -m nodes

# Clients bring pins of their own, so they live in an environment of their own.
$(VENV)/clients/.made: requirements/clients.txt | $(VENV)/bin/python
	@echo "installing other clients into $(VENV)/clients (hashes checked)"
	@$(PYTHON) -m venv $(VENV)/clients
	@$(VENV)/clients/bin/python -m pip --disable-pip-version-check --no-input -q install --require-hashes -r $<
	@touch $@

tests/clients/node/node_modules/.made: tests/clients/node/package-lock.json
	@cd tests/clients/node && npm ci --ignore-scripts --no-update-notifier --loglevel=error
	@touch $@

.PHONY: node-clients
node-clients:
	@command -v npm > /dev/null || { echo "no npm here: clients for Node.js are left out"; exit 0; }; \
	  $(MAKE) --no-print-directory -s tests/clients/node/node_modules/.made

.PHONY: test-clients
test-clients: $(VENV)/.dev $(VENV)/clients/.made node-clients ## Run the clients of docs/clients.md against the product (LangChain, LlamaIndex, litellm, the AI SDK, official SDKs)
	@$(BIN)/python -m pytest -q tests/clients

.PHONY: figures
figures: $(VENV)/.dev ## Measure every number of loadtests/RESULTS.md again (resumable; see loadtests/README.md)
	@$(BIN)/python -m loadtests.run

.PHONY: statistics
statistics: $(VENV)/.dev ## Measure how often guards and tests err again, and write the tables of docs/statistics.md
	@$(BIN)/python -m loadtests.statistics

.PHONY: learning
learning: $(VENV)/.dev ## Measure what learning is worth on recorded data again, and write the tables of docs/learning.md
	@$(BIN)/python -m loadtests.learning

.PHONY: lock
lock: $(VENV)/.dev ## Resolve the pinned requirements anew (no index lines are written)
	@bash requirements/lock.sh

.PHONY: clean
clean: ## Remove the virtual environment and caches
	@rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
