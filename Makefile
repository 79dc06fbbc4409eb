# What a developer does every day; `make` alone lists it.
# Every target makes .venv when it is missing and brings it up to date when pyproject.toml or
# constraints.txt have changed. Nothing needs an activated environment.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules
unexport PYTHONPATH PYTHONHOME

PYTHON ?= python3
TORCH_VARIANT ?= cpu
ARGS ?=

VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
CONFIG := training/configs/digits_lenet.toml
CHECKPOINT := runs/digits_lenet/checkpoints/best.pt
ARCHIVE := model_store/digits-1.0.mar

.PHONY: help install demo test check serve train bench fmt lint type test-gpu cov docs image pins clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(READY) ## Make .venv and install Flambeau with everything developers need

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Flambeau needs Python 3.10 or newer: make PYTHON=python3.x install")'
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: install ## Train, export, serve, predict, swap versions under load: the whole story
	$(PY) -m deploy.demo

test: install ## Run the tests; ARGS='-k batcher' narrows them
	$(PY) -m pytest $(ARGS)

test-gpu: install ## Run the tests that need a CUDA device
	$(PY) -m pytest -m gpu $(ARGS)

check: lint type test ## What CI runs: lint, type, test

fmt: install ## Format the code and mend what ruff can mend
	$(PY) -m ruff check --fix-only --quiet .
	$(PY) -m ruff format .

lint: install ## ruff, its format check, hadolint, typos
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(VENV)/bin/hadolint Dockerfile
	$(VENV)/bin/typos

type: install ## mypy and pyright, both strict
	$(PY) -m mypy
	$(PY) -m pyright --warnings

cov: install ## Run the tests and report line and branch coverage
	$(PY) -m pytest --cov --cov-report=term --cov-report=html $(ARGS)

docs: install ## Run the code blocks of README.md and docs/
	$(PY) -m pytest tests/test_docs.py $(ARGS)

train: install ## Train LeNet-5 on scikit-learn's digits; ARGS='epochs=10' changes settings
	$(PY) -m training.train $(CONFIG) resume=auto $(ARGS)

$(CHECKPOINT): | install
	$(PY) -m training.train $(CONFIG) resume=auto

$(ARCHIVE): | $(CHECKPOINT)
	$(VENV)/bin/flambeau export --checkpoint $(CHECKPOINT) --name digits --version 1.0 --output $@

serve: $(ARCHIVE) ## Serve the digits model; trains and exports it first when it is missing
	$(VENV)/bin/flambeau serve --model-store model_store --models digits=$(notdir $(ARCHIVE)) $(ARGS)

bench: install ## Measure training, serving and hot swaps; writes docs/benchmarks.md
	@command -v wrk >/dev/null || { [[ $$EUID -eq 0 ]] && apt-get install --yes wrk; } || true
	$(PY) -m benchmarks.run $(ARGS)

image: ## Build the container image; TORCH_VARIANT=cpu or cu130
	docker build --build-arg TORCH_VARIANT=$(TORCH_VARIANT) --tag flambeau:$(TORCH_VARIANT) .

pins: ## Write constraints.txt anew from the newest releases
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && \
	$(PYTHON) -m venv "$$fresh" && \
	"$$fresh/bin/python" -m pip install --quiet -e '.[dev]' && \
	"$$fresh/bin/python" deploy/pins.py > constraints.txt

clean: ## Remove what builds and tests leave behind; keeps .venv and model_store/
	rm -rf build dist htmlcov .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +
