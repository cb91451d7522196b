# Everything here works on a fresh clone with Python 3.11+ and pip; `make` sets up .venv when it is needed.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?=
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Constrains build environments too, which `-c` does not reach.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export DO_NOT_TRACK := 1

.DEFAULT_GOAL := help
.PHONY: help environment demo test check fix verification wheel wheel-check clean

help:
	@echo "make demo         environment, then the whole job: data, prior, posteriors, report"
	@echo "make test         environment, then lint, import contract and tests"
	@echo "make check        lint, format, types, import contract"
	@echo "make fix          mend lint and format"
	@echo "make verification measure every equation against what is known: writes docs/verification.md"
	@echo "make wheel-check  build the wheel, install it in an empty environment elsewhere, run it there"

# The stamp holds the hash of what decides the environment: equal, and nothing is installed.
environment:
	@set -euo pipefail; \
	want=$$(cat pyproject.toml constraints.txt | $(PYTHON) -c \
	  'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())'); \
	if [ "$$(cat $(VENV)/.stamp 2>/dev/null)" != "$$want" ]; then \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "pdediff needs Python 3.11 or newer")'; \
	  test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); \
	  $(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'; \
	  echo "$$want" > $(VENV)/.stamp; \
	fi

demo: environment
	$(BIN)/pdediff demo $(DEMO)

test: environment
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: environment
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

fix: environment
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# A test compares the page's rows, not its figures, with tests/pdes/rows.
verification: environment
	$(BIN)/python tests/pdes/page.py

wheel: environment
	rm -rf build dist
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	@ls dist/*.whl

# A scaled-down demo: the point is that an installed package finds its flows, configs and templates.
wheel-check: wheel
	@set -euo pipefail; \
	place=$$(mktemp -d); trap 'rm -rf "$$place"' EXIT; wheel=$$(realpath dist/*.whl); \
	$(PYTHON) -m venv "$$place/venv"; cd "$$place"; \
	venv/bin/python -m pip install --quiet -c $(CURDIR)/constraints.txt "$$wheel"; \
	venv/bin/pdediff doctor; \
	venv/bin/pdediff demo generate.samples=256 generate.grid=16 train.fit.steps=40 train.calibration.fields=12 train.calibration.rank=8 \
	  'train.calibration.levels=4' reconstruct.cases=2 reconstruct.draws=8 \
	  'generate.split={train: 0.8, valid: 0.1, test: 0.1}' \
	  'reconstruct.observations.sensors={pressure: 12, permeability: 4}'

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .import_linter_cache
