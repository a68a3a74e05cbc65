.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export DO_NOT_TRACK := 1

.PHONY: help install demo test test-all check format audit bench experiments clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "slidewatch needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

install: $(INSTALLED)  ## Create .venv and install slidewatch with its development tools

demo: $(INSTALLED)  ## Train, fit, screen and query on rendered cells (a few minutes)
	$(BIN)/slidewatch demo

# Two processes, each with whole files: what a file's tests share is made once.
test: $(INSTALLED)  ## Run the tests that finish in minutes
	$(BIN)/python -m pytest -m 'not slow and not benchmark and not experiment' \
	  --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-all: $(INSTALLED)  ## Run every test, the slow ones too
	$(BIN)/python -m pytest -m 'not benchmark and not experiment' --hypothesis-profile new-examples

check: $(INSTALLED)  ## Check format, lint, import directions and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

format: $(INSTALLED)  ## Format the code and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

audit: $(INSTALLED)  ## Compare what the images install with known weaknesses (asks the network)
	$(PYTHON) -m venv .audit
	.audit/bin/pip install --quiet --disable-pip-version-check pip-audit
	.audit/bin/pip-audit --requirement deploy/constraints.txt --no-deps --disable-pip

bench: $(INSTALLED)  ## Run the benchmarks; each prints a ratio against a peer or a limit
	$(BIN)/python -m pytest -m benchmark -s tests/benchmarks

experiments: $(INSTALLED)  ## Decide the defaults by evidence again (hours, on real images)
	$(BIN)/python -m pytest -m experiment -s tests/benchmarks

clean:  ## Remove .venv and everything the demo wrote
	rm -rf $(VENV) .audit demo
