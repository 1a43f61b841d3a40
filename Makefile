# Set-up happens by itself: every target below needs .venv, and .venv is made anew only when
# pyproject.toml, constraints.txt or scripts/setup.sh changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
ARGS ?=
OMNIGLOT ?= omniglot

# Nothing is contacted at run time.
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1
export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION := 1
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: help setup simulate check format test test-all bench paper paper-quick paper-federated tools sbom clean

help:
	@echo "make simulate [ARGS='--hospitals 12']  run the demo, or any simulation"
	@echo "make test        run the tests (under 12 minutes on 2 cores)"
	@echo "make test-all    run the slow tests too"
	@echo "make check       formatting, lint, types, import rules"
	@echo "make bench       the benchmarks: tables, and JSON in benchmarks/out"
	@echo "make paper-quick OMNIGLOT=folder  the papers' tables in 15 minutes; paper: in 5 hours"
	@echo "make paper-federated OMNIGLOT=folder  learners over 50 clients against FedAvg: 15 minutes"
	@echo "make tools       validators for deploy/, in .tools; the tests use them where they are"
	@echo "make sbom        write sbom.cdx.json: what .venv consists of (CycloneDX 1.6)"
	@echo "make setup       only make the environment"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt scripts/setup.sh
	PYTHON="$(PYTHON)" VENV="$(VENV)" bash scripts/setup.sh
	@touch $@

simulate: $(STAMP)
	$(BIN)/metaward simulate $(ARGS)

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Two at a time, by whole files, in the order of their names: the longest one comes early.
test: $(STAMP)
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

test-all: $(STAMP)
	$(BIN)/pytest -m ''

bench: $(STAMP)
	$(BIN)/python benchmarks/run_all.py

# Ctrl-C loses a minute: go on with ARGS=--resume.
paper paper-quick: $(STAMP)
	$(BIN)/python benchmarks/paper_tables.py --data "$(OMNIGLOT)" $(if $(filter %-quick,$@),--quick) $(ARGS)
	$(BIN)/python scripts/update_readme.py

paper-federated: $(STAMP)
	$(BIN)/python benchmarks/federated_table.py --data "$(OMNIGLOT)" $(ARGS)
	$(BIN)/python scripts/update_readme.py

tools:
	PYTHON="$(PYTHON)" bash scripts/tools.sh

sbom: $(STAMP)
	PYTHON="$(PYTHON)" bash scripts/sbom.sh sbom.cdx.json $(BIN)/python

clean:
	rm -rf $(VENV) .tools .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
