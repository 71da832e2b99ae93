# Every target says what it does and is quiet about the rest. Needed: Python 3.11 or newer, make, git.
PYTHON ?= python3
VENV   := .venv
RUN    := $(VENV)/bin
READY  := $(VENV)/ready
# How often the drill of killed runs kills; 20 takes half an hour.
KILLS  ?= 3
# Which drills, as pytest names them.
DRILLS ?= tests lab/tests
# At how many boundaries the kill and undo matrix kills a run; CELLS= is all of them, for two hours.
CELLS  ?= 3
MAKEFLAGS += --no-print-directory

.DEFAULT_GOAL := help
.PHONY: help setup demo lint unit test e2e drills lock prometheus browser checks

help:
	@echo "make demo     build and start a live mesh of one cluster here, take it to two, say where the report is"
	@echo "make lint     ruff, mypy, import-linter; all tests can be collected: about 1 minute"
	@echo "make unit     tests that need neither a cluster nor built programs: about 3 minutes"
	@echo "make test     lint, unit, tests with a real API server, a whole migration on the lab: about 30 minutes"
	@echo "make e2e      tests in a browser, all with the lab, and those of the lab, but no drills: about 40 minutes"
	@echo "make drills   tests of minutes each, about 90 minutes: every fault, kills (KILLS=20, CELLS=); DRILLS= chooses"
	@echo "make setup    $(VENV) with everything locked; as root also the Debian packages that are lacking"
	@echo "make checks   print docs/checks.md from the catalogue, docs/tables.md from the schemas"
	@echo "make lock     resolve requirements.lock again (needs uv)"

setup: $(READY)

$(READY): requirements.lock pyproject.toml lab/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Error: Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) --version 2>&1)" >&2; \
	  echo "  → make $(or $(MAKECMDGOALS),setup) PYTHON=python3.12" >&2; exit 2; }
	@echo "setting up $(VENV)" >&2
	@test -x $(RUN)/python || $(PYTHON) -m venv $(VENV) || { \
	  echo "  → the venv module is lacking: apt-get install -y python3-venv" >&2; rm -rf $(VENV); exit 3; }
	@$(RUN)/python -m pip install --quiet --requirement requirements.lock
	@$(RUN)/python -m pip install --quiet --no-deps --editable . --editable lab
	@if [ "$$(id -u)" = 0 ]; then $(RUN)/meshkit doctor --mend > $(VENV)/doctor || { cat $(VENV)/doctor >&2; exit 3; }; fi
	@touch $@

# What meshkit reads of a Prometheus is tried on a real one; kept out of `setup`, because no user needs it.
prometheus: $(READY)
	@command -v prometheus >/dev/null || [ "$$(id -u)" != 0 ] || { echo "installing Debian's prometheus for a test" >&2; \
	  apt-get update -qq && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends prometheus >&2; }

# Pages are tried in Debian's Chromium; without root and without one, tests/browser fails and says what to install.
browser: $(READY)
	@command -v chromium >/dev/null || [ "$$(id -u)" != 0 ] || { echo "installing Debian's chromium for tests" >&2; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >&2; }

demo: $(READY)
	@$(RUN)/meshkit demo

lint: $(READY)
	@echo "ruff, mypy, all tests can be collected, import-linter" >&2
	@$(RUN)/ruff check --quiet .
	@$(RUN)/ruff format --check --quiet .
	@$(RUN)/mypy --no-error-summary
	@$(RUN)/python -m pytest --collect-only -qq tests lab/tests > $(VENV)/tests || { cat $(VENV)/tests >&2; exit 1; }
	@$(RUN)/lint-imports --no-logo > $(VENV)/layers || { cat $(VENV)/layers >&2; exit 1; }

unit: $(READY)
	@$(RUN)/python -m pytest -n 2 tests/unit

# The migration is marked as a drill; named by its path it runs all the same.
test: lint unit prometheus
	@$(RUN)/meshkit lab build
	@$(RUN)/python -m pytest -n 2 --dist loadfile tests/processes tests/api_server
	@$(RUN)/python -m pytest tests/e2e/runs/test_migration.py

e2e: prometheus browser
	@$(RUN)/meshkit lab build
	@$(RUN)/python -m pytest -m "not drill" tests/browser tests/e2e lab/tests

drills: $(READY)
	@$(RUN)/meshkit lab build --helm --istio 1.30
	@MESHKIT_TEST_KILLS=$(KILLS) MESHKIT_TEST_CELLS=$(CELLS) $(RUN)/python -m pytest -m drill $(DRILLS)

checks: $(READY)
	@$(RUN)/python -m meshkit.checks.catalogue > docs/checks.md.new && mv docs/checks.md.new docs/checks.md
	@$(RUN)/python -m meshkit.notebook.tables > docs/tables.md.new && mv docs/tables.md.new docs/tables.md

lock:
	@uv pip compile --quiet --no-emit-package meshkit --no-emit-package meshkit-lab --universal --python-version 3.11 --all-extras --no-header --no-annotate pyproject.toml lab/pyproject.toml \
	  --output-file requirements.lock
