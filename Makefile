# `make demo` and `make test` need Python 3.11 or newer, a C compiler, make and git; they set
# up the rest in $(VENV). A second run starts at once; native code is rebuilt when it changed.
#
#   make test PYTHON=python3.12 VENV=.venv-3.12     another interpreter, side by side
#   make test TESTS="tests/wire -k hello"           some tests only

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules --no-print-directory

# The first of these that runs and is new enough (a pyenv shim exists, but may refuse to run).
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3 python3.11 python3.12 python3.13 python3.14 python3.15 python; do \
	$$python -c '$(NEW_ENOUGH)' >/dev/null 2>&1 && echo $$python && break; done)
VENV ?= .venv
TESTS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
SETUP := $(BIN)/python -W ignore -c 'import setuptools; setuptools.setup()'
NATIVE := $(wildcard aioipc/native/*.pyx aioipc/native/*.pxd aioipc/native/*.h)
# A module that has no build yet, or lost it, is no reason to believe the stamp.
UNBUILT := $(foreach source,$(filter %.pyx,$(NATIVE)),$(if $(wildcard $(source:.pyx=.*.so)),,unbuilt))
CHECKED := $(wildcard aioipc tests examples benchmarks)

VERSIONS := 3.11 3.12 3.13 3.14 3.15
FIND_PYTHON = { python$$version -c 'import sys; print(sys.executable)' || \
	ls -d "$$(pyenv root)"/versions/$$version.*/bin/python | sort -V | tail -n 1; } 2>/dev/null || true

# Print the requirements of an extra, or those of the build, one per line.
REQUIRES := $(BIN)/python -c 'import sys, tomllib; \
	table = tomllib.load(open("pyproject.toml", "rb")); \
	extras = table["project"]["optional-dependencies"]; \
	name = sys.argv[1]; \
	print(*(table["build-system"]["requires"] if name == "build" else extras[name]), sep="\n")'

.PHONY: help
help:  ## show this list
	@sed -nE 's/^([a-z-]+):.*  ## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

.PHONY: demo
demo: $(VENV)/.native  ## two processes talk over every transport, with figures
	@$(BIN)/aioipc demo

.PHONY: test
test: lint types pytest  ## everything that must pass: lint, types, tests on both loops

.PHONY: pytest
pytest: $(VENV)/.test $(VENV)/.native  ## only the tests; TESTS="..." chooses some
	@$(BIN)/python -m tests $(TESTS)

.PHONY: verify
verify: $(VENV)/.test  ## the rings in full: races, fuzz, kills, interleavings
	@$(BIN)/python -m tests.verify $(VERIFY)

.PHONY: lint
lint: $(VENV)/.test  ## ruff and the import rules
	@$(BIN)/ruff check $(CHECKED)
	@$(BIN)/ruff format --check $(CHECKED)
	@$(BIN)/lint-imports --no-cache --no-logo

.PHONY: types
types: $(VENV)/.test  ## mypy --strict
	@$(BIN)/mypy $(CHECKED)

.PHONY: format
format: $(VENV)/.test  ## let ruff rewrite what it can
	@$(BIN)/ruff check --fix $(CHECKED)
	@$(BIN)/ruff format $(CHECKED)

.PHONY: bench
bench: $(VENV)/.bench $(VENV)/.native  ## our transports beside the alternatives, interleaved
	@$(MAKE) $(VENV)/.bench-native || echo "some alternatives do not install here, and are left out" >&2
	@$(BIN)/python -m benchmarks $(BENCH)

.PHONY: docs
docs: $(VENV)/.docs  ## a web site of docs/ in site/
	@$(BIN)/mkdocs build --strict --quiet --config-file .mkdocs.yml
	@echo "open site/index.html"

.PHONY: test-all
test-all:  ## all tests on both loops, on every Python from 3.11 on that is here
	@for version in $(VERSIONS); do \
		python=$$($(FIND_PYTHON)); \
		if [ -z "$$python" ]; then echo "no Python $$version here"; continue; fi; \
		AIOIPC_TEST_BOTH_LOOPS=1 $(MAKE) pytest PYTHON="$$python" VENV=".venv-$$version"; \
	done

.PHONY: conformance
conformance:  ## CPython's own tests of asyncio over our transports, on every Python
	@for version in $(VERSIONS); do \
		python=$$($(FIND_PYTHON)); \
		if [ -z "$$python" ]; then echo "no Python $$version here"; continue; fi; \
		$(MAKE) .venv-$$version/.native PYTHON="$$python" VENV=".venv-$$version"; \
		.venv-$$version/bin/python -m tests.asyncio_face.conformance; \
	done

.PHONY: coverage
coverage: $(VENV)/.test $(VENV)/.native  ## the tests, and which branches they took
	@$(BIN)/python -m pytest --cov --cov-report=term --cov-report=html $(TESTS)
	@echo "open htmlcov/index.html"

.PHONY: native
native: $(VENV)/.native  ## rebuild native code that changed

.PHONY: clean
clean:  ## remove environments, builds and caches
	rm -rf .venv* .build build dist *.egg-info htmlcov site .coverage .coverage.*
	rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find aioipc tests examples benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
	rm -f aioipc/native/*.so aioipc/native/*.c aioipc/native/*.html

# --- the environment -----------------------------------------------------------------

# The package is installed editable: a change to a .py file is seen at once, and the native
# modules lie beside their sources, one file per Python version.
$(VENV)/.installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "aioipc needs Python 3.11 or newer; say make PYTHON=..." >&2; exit 1; }
	@echo "setting up $(VENV) with $(PYTHON)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "python -m venv failed; on Debian: apt install python3-venv python3-dev" >&2; exit 1; }
	@$(REQUIRES) build | $(PIP) install --requirement /dev/stdin
	@$(PIP) install --no-build-isolation --editable '.[cli,uvloop]'
	@touch $@ $(VENV)/.native

# What is shared by several modules changes all of them, which setuptools does not know.
.PHONY: unbuilt
$(VENV)/.native: $(VENV)/.installed $(NATIVE) $(UNBUILT)
	@$(SETUP) --quiet build_ext --inplace $(if $(filter %.h %.pxd,$?),--force)
	@touch $@

$(VENV)/.test $(VENV)/.bench $(VENV)/.bench-native $(VENV)/.docs: $(VENV)/.%: $(VENV)/.installed
	@$(REQUIRES) $* | $(PIP) install --requirement /dev/stdin
	@touch $@
