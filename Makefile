# What a developer does every day; `make` alone lists it.
# Every target makes .venv when it is missing and brings it up to date when pyproject.toml or
# constraints.txt have changed. Nothing needs an activated environment.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules
# with the last of these, each process that tests start would compile anew what it imports
unexport PYTHONPATH PYTHONHOME PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
TORCH_VARIANT ?= cpu
ARGS ?=
MINUTES ?= 30
SECONDS_EACH ?= 60
# tests wait for processes more than they compute, so a few more than there are cores
JOBS ?= 3

VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
CONFIG := training/configs/digits_lenet.toml
CHECKPOINT := runs/digits_lenet/checkpoints/best.pt
ARCHIVE := model_store/digits-1.0.mar

.PHONY: help install demo test check secure security-page conformance serve train bench bench-peers faults soak fmt lint type test-gpu cov fuzz mutants docs image protos pins clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(READY) ## Make .venv and install Flambeau with everything developers need

# compiled when first imported: most of what is installed never is
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Flambeau needs Python 3.10 or newer: make PYTHON=python3.x install")'
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(PY) -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: install ## Train, export, serve, predict, swap versions under load: the whole story
	$(PY) -m deploy.demo

test: install ## Run the tests, JOBS=3 files at a time; ARGS='-k batcher' narrows them
	$(PY) -m pytest --numprocesses=$(JOBS) --dist=loadfile --no-loadscope-reorder $(ARGS)

test-gpu: install ## Run the tests that need a CUDA device
	$(PY) -m pytest -m gpu $(ARGS)

conformance: install ## Record from the original TorchServe anew (needs Java 17) and compare
	$(PY) -m tests.conformance.record $(ARGS)

check: lint type secure test ## What CI runs: lint, type, secure, test

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

secure: install ## Known vulnerabilities of the pins; what bandit and tests/test_safety.py find
	$(PY) -m deploy.audit
	$(PY) -m bandit --quiet --recursive --configfile pyproject.toml -lll server handlers training deploy
	$(PY) -m pytest tests/test_safety.py --quiet

security-page: install ## Write docs/security.md anew from docs/threats.toml
	$(PY) -m deploy.security_page

cov: install ## Run the tests and report line and branch coverage
	$(PY) -m pytest --cov --cov-report=term --cov-report=html $(ARGS)

fuzz: install ## Fuzz each target of tests/fuzz for SECONDS_EACH=60, with atheris
	@$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[fuzz]' || true
	@for target in archive form frames; do $(PY) -m tests.fuzz.run $$target $(SECONDS_EACH); done

mutants: install ## Change code that must not be wrong, see what tests notice; ARGS=tokens
	@$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[mutants]'
	$(PY) -m deploy.mutants $(ARGS)

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

bench-peers: install ## Measure Flambeau beside other servers; ARGS='--quick' or '--resume'
	@command -v wrk >/dev/null || { [[ $$EUID -eq 0 ]] && apt-get install --yes wrk; } || true
	$(PY) -m benchmarks.peers.run $(ARGS)

faults: install ## Hurt a server in every way we know; writes docs/reliability.md
	$(PY) -m tests.faults.run $(ARGS)

soak: install ## Mix these faults for MINUTES=30 and look for what leaks
	$(PY) -m tests.faults.run --soak $(MINUTES) $(ARGS)

image: ## Build the container image; TORCH_VARIANT=cpu or cu130
	docker build --build-arg TORCH_VARIANT=$(TORCH_VARIANT) --tag flambeau:$(TORCH_VARIANT) .

# older than the runtime: code generated by protobuf 5 runs with 5, 6 and 7
protos: ## Generate the gRPC messages from their .proto files
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && \
	$(PYTHON) -m venv "$$fresh" && \
	"$$fresh/bin/python" -m pip install --quiet grpcio-tools==1.67.1 googleapis-common-protos && \
	"$$fresh/bin/python" -m grpc_tools.protoc -I server \
	  -I "$$("$$fresh/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
	  --python_out=server --pyi_out=server server/flambeau/torchserve/grpc/protos/*.proto

pins: ## Write constraints.txt anew from the newest releases
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && \
	$(PYTHON) -m venv "$$fresh" && \
	"$$fresh/bin/python" -m pip install --quiet -e '.[dev,fuzz,mutants]' && \
	"$$fresh/bin/python" deploy/pins.py > constraints.txt

clean: ## Remove what builds and tests leave behind; keeps .venv and model_store/
	rm -rf build dist htmlcov .fuzz .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +
