# `make` lists what there is. A machine with Python 3.11 or newer (with its venv module) and make is enough.

PYTHON ?= python3
# Installed first and by itself, so that another build can be named: on Linux the usual one carries CUDA, some
# gigabytes that a machine without an NVIDIA GPU can do without. Anything that pip takes; in quotes if it is
# several words: make setup TORCH="torch==2.13.0 --index-url URL"
TORCH ?= torch==2.13.0

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint protos metrics lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## Install everything into .venv and fetch the embedded model; quick the second time

demo: setup ## Start the three services, stream a completion through them, stop
	@$(BIN)/tandem demo

test: setup ## Run all tests, the contract's and the style's among them
	$(BIN)/python -m pytest -n auto --dist worksteal

lint: setup ## Check style, types and the contract
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/buf lint protos
	$(BIN)/buf breaking protos --against protos/baseline.binpb

protos: setup ## Generate tandem/v1 and docs/api.md again from protos/
	$(BIN)/python protos/generate.py
	$(BIN)/python protos/document.py

metrics: setup ## Generate docs/metrics.md again from tandem/telemetry
	$(BIN)/python -m tandem.telemetry.document

lock: setup ## Lock the dependencies of the images again, after a change of pyproject.toml
	deploy/requirements/lock.sh

clean: ## Remove .venv and everything built; the model cache stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml
	@command -v $(PYTHON) >/dev/null || \
	  { echo "$(PYTHON) was not found: install Python 3.11 or newer, or name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Tandem needs Python 3.11 or newer; this is $$($(PYTHON) --version 2>&1)." \
	    "Name another: make PYTHON=python3.12" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { echo "Creating $(VENV)"; $(PYTHON) -m venv --clear $(VENV); }
	@echo "Installing $(firstword $(TORCH)) (large; a few minutes the first time)"
	@$(PIP) install $(TORCH)
	@echo "Installing Tandem and what it needs"
	@$(PIP) install --editable '.[models,bench,tracing,dev]'
	@$(BIN)/tandem pull
	@touch $@
