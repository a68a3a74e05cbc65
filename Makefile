.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# make install LOCKED=1: exactly the versions, and the files, of deploy/locks
LOCKED ?=
INSTALLED := $(VENV)/.installed$(if $(LOCKED),-locked)
LOCKS := deploy/locks
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export DO_NOT_TRACK := 1
# Hundreds of processes of the tests would each compile every module again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install demo test test-all check format lock audit detector figures bench clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# pip does not compile an editable package, and a shell may forbid Python to: `look` then takes .3 s more.
$(INSTALLED): pyproject.toml $(if $(LOCKED),$(LOCKS)/development.txt $(LOCKS)/torch.txt)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "slidewatch needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
ifdef LOCKED
	$(PIP) --require-hashes --no-deps --requirement $(LOCKS)/development.txt
	$(PIP) --no-build-isolation --constraint $(LOCKS)/torch.txt --editable '.[dev]'
else
	$(PIP) --editable '.[dev]'
endif
	$(BIN)/python -m compileall -q flows tasks storage
	@touch $@

install: $(INSTALLED)  ## Create .venv and install slidewatch with its development tools

demo: $(INSTALLED)  ## Train, fit, screen and query on rendered cells (a few minutes)
	$(BIN)/slidewatch demo

# Two processes, each with whole files: what a file's tests share is made once.
test: $(INSTALLED)  ## Run the tests that finish in minutes
	$(BIN)/python -m pytest -m 'not slow and not texts and not benchmark' \
	  --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-all: $(INSTALLED)  ## Run every test, the slow ones too
	$(BIN)/python -m pytest -m 'not benchmark' --hypothesis-profile new-examples

check: $(INSTALLED)  ## Check format, lint, imports, dependencies, types and texts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/deptry flows tasks storage
	$(BIN)/mypy
	$(BIN)/python -m pytest -m texts tests/test_texts.py tests/test_house.py

format: $(INSTALLED)  ## Format the code and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Versions that still fit stay; delete the files first to take the newest. torch's build differs between
# machines, and it pins the CUDA packages itself: both are locked by version alone, in torch.txt.
OF_TORCH := torch torchvision triton cuda-bindings cuda-pathfinder cuda-toolkit \
  $(addprefix nvidia-,cublas cuda-cupti cuda-nvrtc cuda-runtime cudnn-cu13 cufft cufile curand cusolver \
  cusparse cusparselt-cu13 nccl-cu13 nvjitlink nvshmem-cu13 nvtx)
LOCK := .lock/bin/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
  --no-header --no-annotate --constraint $(LOCKS)/torch.txt $(addprefix --no-emit-package ,$(OF_TORCH))

lock:  ## Renew deploy/locks after a change of dependencies (asks the network)
	$(PYTHON) -m venv .lock
	.lock/bin/pip install --quiet --disable-pip-version-check uv
	$(LOCK) --extra dev --output-file $(LOCKS)/development.txt
	sed 's/ *\\$$//; /--hash/d' $(LOCKS)/development.txt > .lock/pins.txt
	$(LOCK) --extra kubernetes --extra s3 --constraint .lock/pins.txt --output-file $(LOCKS)/image.txt

audit: $(INSTALLED)  ## Compare what the images install with known weaknesses (asks the network)
	$(PYTHON) -m venv .audit
	.audit/bin/pip install --quiet --disable-pip-version-check pip-audit
	cat $(LOCKS)/image.txt $(LOCKS)/torch.txt | sed 's/ *\\$$//; /--hash/d' > .audit/installed.txt
	.audit/bin/pip-audit --requirement .audit/installed.txt --no-deps --disable-pip

detector: $(INSTALLED)  ## Make the detector that comes with slidewatch, and judge it (hours)
	$(BIN)/python -m tests.benchmarks.laboratories --work .detector --ship

figures: $(INSTALLED)  ## Measure every figure of the README, and write them (hours; resumes)
	$(BIN)/python -m tests.benchmarks.figures --work .detector

bench: $(INSTALLED)  ## Run the benchmarks; each prints a ratio against a peer or a limit
	$(BIN)/python -m pytest -m benchmark -s tests/benchmarks

clean:  ## Remove .venv and everything the demo wrote
	rm -rf $(VENV) .audit .lock .detector demo
