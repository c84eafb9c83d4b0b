# `make help` lists what there is. Two of them are enough to begin with: `make up`, `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SOAK_S ?= 600
ENGINES ?= bookworm trixie forky forky+containerd
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install

.DEFAULT_GOAL := help
.PHONY: help up down status test test-engines test-machines unit soak lint format bench screenshots locks engine-stop clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: $(VENV)/.ready ## bring the hub up on this machine, engine included (ENV=NAME: with that profile)
	@$(BIN)/jhswarmd up $(if $(ENV),--env $(ENV),--env-if-new local) $(if $(YES),--yes)

down: $(VENV)/.ready ## stop the notebooks and remove the stack; volumes and secrets stay
	@$(BIN)/jhswarmd down $(if $(ENV),--env $(ENV))

status: $(VENV)/.ready ## show how the deployment is
	@$(BIN)/jhswarmd status

test: $(VENV)/.ready-dev ## pass every test, on a real engine of its own and in a real browser
	@$(BIN)/pytest -n 2 --dist loadscope

test-engines: $(VENV)/.ready-dev ## pass all engine tests on each tested engine (an hour or two)
	@for engine in $(ENGINES); do echo "Engine $$engine"; \
		$(BIN)/pytest -n 2 --dist loadscope tests/engine tests/cluster tests/browser --engine $$engine || exit 1; done

test-machines: $(VENV)/.ready-dev ## run the quick start and the unit tests on fresh Debian machines
	@$(BIN)/pytest tests/machines

unit: $(VENV)/.ready-dev ## pass the tests that need no engine, in a minute
	@$(BIN)/pytest tests/unit

soak: $(VENV)/.ready-dev ## run random users and faults (SOAK_S=600 seconds)
	@$(BIN)/pytest tests/soak --soak-s $(SOAK_S)

lint: $(VENV)/.ready-dev ## check style, types and the direction of imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(VENV)/.ready-dev ## format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(VENV)/.ready-dev ## measure against the bare engine and stock SwarmSpawner
	@$(BIN)/python -m bench

screenshots: $(VENV)/.ready-dev ## take the pictures in docs/images anew, from a real browser
	@$(BIN)/pytest tests/browser --screenshots docs/images

locks: ## resolve the exact versions anew (needs uv)
	@$(SHELL) locks/update

engine-stop: $(VENV)/.ready ## stop the engine, if `make up` started it
	@$(BIN)/jhswarmd engine-stop

clean: ## remove the virtual environment and caches; nothing of a deployment
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# Debian's Python comes without the module that makes virtual environments.
$(VENV)/bin/python:
	@echo "Making a virtual environment in $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "error: Python 3.10 or later is needed; name one with 'make PYTHON=python3.12 ...'" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		test "$$(id -u)" = 0 && command -v apt-get >/dev/null || \
		{ echo "error: Python's venv is missing; install it, on Debian: apt-get install python3-venv" >&2; exit 1; }; \
		echo "Installing python3-venv"; apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends python3-venv >/dev/null; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.ready: locks/runtime.txt locks/build.txt pyproject.toml | $(VENV)/bin/python
	@echo "Installing what jhswarmd needs into $(VENV) (half a minute)"
	@$(PIP) --require-hashes --requirement locks/runtime.txt --requirement locks/build.txt
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.ready-dev: locks/dev.txt $(VENV)/.ready
	@echo "Installing what tests and linters need into $(VENV) (half a minute)"
	@$(PIP) --require-hashes --requirement locks/dev.txt
	@touch $@
