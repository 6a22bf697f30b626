# larkline: each target runs what it needs first and is quick when nothing changed.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# Tests that start real agents share two cores: more workers only make each other late.
WORKERS ?= 2
NODE_DIR := tests/integration/node

.PHONY: help setup demo test check bench docs system-demo system-test clean

help:  ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 14

setup: $(READY)  ## Install everything into .venv

# Everything with hashes, from the lock; the project itself in place.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "larkline needs Python 3.11 or newer: make PYTHON=python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "Python's venv module is missing: apt-get install python3-venv" >&2; exit 1; }
	@echo "installing the Python packages (about 500 MB with the agent, once) ..."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

system-demo:
	@tools/need bwrap=bubblewrap

system-test:
	@tools/need bwrap=bubblewrap chromium=chromium node=nodejs npm=npm fc-list:noto.*cjk=fonts-noto-cjk fc-list:emoji=fonts-noto-color-emoji

demo: setup system-demo  ## Try it without an account; ONCE=1 ends after the exchange
	@$(BIN)/larkline demo $(if $(filter 1 yes true,$(ONCE)),--once) $(if $(PORT),--port $(PORT))

$(NODE_DIR)/node_modules/.ready: $(NODE_DIR)/package-lock.json
	npm ci --prefix $(NODE_DIR) --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

check: setup  ## Format, lint, types, layers, unit and contract tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/settings_table.py --check
	$(BIN)/pytest tests/unit tests/contract -m "not cli" -n $(WORKERS)

test: check system-test $(NODE_DIR)/node_modules/.ready  ## Everything, with the real agent, SDKs and browser
	$(BIN)/pytest tests/contract -m cli
	$(BIN)/pytest tests/integration tests/e2e -n $(WORKERS) --dist loadfile

bench: setup system-demo  ## Measure; figures go to benchmarks/results
	$(BIN)/python -m benchmarks

docs: setup  ## Bring the generated tables up to date
	$(BIN)/python tools/settings_table.py

clean:  ## Remove what the targets made
	rm -rf $(VENV) $(NODE_DIR)/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis
