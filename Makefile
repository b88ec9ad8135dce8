# `make explore` serves the explorer; `make test` is everything that must pass. `make help` lists the rest.
# The environment is .venv, made from pyproject.toml and constraints.txt, and made again when they change.

VENV := .venv
BIN := $(VENV)/bin
# --no-compile: Python compiles a module when it is first used, and most of what comes along never is
PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-compile -qq -c constraints.txt
PORT ?= 8866
# processes for the unit tests, each with one thread: on two cores two take three quarters of the time of one
JOBS ?= 2

export PYTHON
.DEFAULT_GOAL := help
.PHONY: help explore lab install install-test test lint format types unit notebooks browser pages benchmark \
	wheel wheel-check constraints clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

explore: install  ## serve the explorer at http://localhost:8866 (PORT=... for another)
	@$(BIN)/gating-explorer serve --port $(PORT)

lab: install  ## the same pages in JupyterLab, to change them
	@$(BIN)/gating-explorer lab

install: $(VENV)/.installed  ## the environment, without the tools of the tests

install-test: $(VENV)/.installed-test  ## the environment with the tools of the tests
	@scripts/install_proxy $(VENV)

$(BIN)/python:
	@python=$$(scripts/python) && echo "Making a virtual environment in $(VENV) ..." && \
		{ "$$python" -m venv $(VENV) || { rm -rf $(VENV); exit 1; }; }

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing the explorer (a few minutes the first time) ..."
	@scripts/install_torch $(VENV)
	@$(PIP) -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed tests/alone.txt
	@echo "Installing what the tests need ..."
	@$(PIP) -e '.[test]'
	@$(PIP) --no-deps -r tests/alone.txt
	@touch $@

test: lint types unit notebooks browser  ## lint, types, unit tests, notebooks, browser: a quarter of an hour on two cores

lint: install-test  ## ruff: rules and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: install-test  ## let ruff mend what it can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: install-test  ## mypy on the library
	$(BIN)/mypy

unit: install-test  ## the tests that need neither kernel nor browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --ignore tests/notebooks --ignore tests/browser

notebooks: install-test  ## every page: stripped, twin in step, thin, and it runs
	$(BIN)/python -m pytest tests/notebooks

browser: install-test  ## the pages in a real Chromium
	@scripts/install_chromium $(VENV)
	$(BIN)/python -m pytest tests/browser

pages: install-test  ## write every notebooks/**.ipynb anew from its .py twin
	@find notebooks -name '*.py' | while read -r page; do \
		$(BIN)/jupytext --quiet --to ipynb "$$page" && $(BIN)/nbstripout --extra-keys metadata.jupytext "$${page%.py}.ipynb"; done

benchmark: install-test  ## speed and memory against peers
	$(BIN)/gating-explorer bench

wheel: install-test  ## dist/gating_explorer-*.whl
	$(BIN)/python -m build --no-isolation --wheel --outdir dist

wheel-check: install-test  ## install the wheel in an empty environment and fetch a page from it (minutes)
	$(BIN)/python scripts/check_wheel.py

constraints: install-test  ## write constraints.txt anew from a fresh environment (minutes)
	$(BIN)/python scripts/write_constraints.py

clean:  ## remove the environment and everything generated
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis test-output
	find . -name __pycache__ -prune -exec rm -rf {} +
