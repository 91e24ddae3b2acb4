# Everything is made with `make`; see `make help`.

SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export GOMP_SPINCOUNT ?= 0
TEST_WORKERS ?= 2

.PHONY: help install dev demo test check format lint types size bench bench-gpu golden clean

help: ## Say what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-10s %s\n", $$1, $$2}'

install: $(VENV)/.installed ## Make .venv and install dsllm into it

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	$(BIN)/python -m compileall -q src # as pip does with what it copies: a start takes 0.04 s less
	touch $@

dev: $(VENV)/.installed-dev # what developing and testing need besides

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

include examples/demo.mk

test: dev ## Run the tests (under 8 minutes on 2 cores)
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadgroup $(TESTS)

check: lint types size ## Format, lint, types, layers and sizes, as before every commit

format: dev ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: dev ## Check format and style
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: dev ## Check types
	$(BIN)/mypy

size: dev ## Check layers and sizes; print the longest files and the total
	$(BIN)/python -m pytest tests/test_layers.py
	@find src -name '*.py' -print0 | xargs -0 wc -l | sort -rn | head -8

bench: dev ## Measure: see benchmarks/README.md
	@$(MAKE) --no-print-directory -C benchmarks BIN=$(abspath $(BIN))

bench-gpu: dev ## Check and time the kernels on this machine's GPU, beside torch, flash-attn and Liger
	$(BIN)/python benchmarks/gpu_kernels.py --json gpu_kernels.json

golden: dev ## Make the golden files in tests/golden again: see benchmarks/README.md
	@$(MAKE) --no-print-directory -C benchmarks golden BIN=$(abspath $(BIN))

clean: ## Remove what the demo and the tools left
	rm -rf demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
