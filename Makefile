# make run      executes the three notebooks on generated samples (DATA=real: on the real data)
# make test     runs the tests
# make help     lists everything
VENV ?= .venv
PYTHON ?= python3
DATA ?= sample
NOTEBOOKS ?=

PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.hw4-installed

.PHONY: help run notebooks test lint format clean

help:  ## this list
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:[^#]*##/\t/' | expand -t 12

# The stamp is newer than the requirements once they are installed, so a second call installs nothing.
$(INSTALLED): requirements.txt requirements-dev.txt constraints.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --disable-pip-version-check -r requirements-dev.txt -c constraints.txt
	touch $@

run: $(INSTALLED)  ## executes the notebooks into build/ and prints a table; DATA=sample|real|auto, NOTEBOOKS="hw4_rnn ..."
	$(PY) -m tools.run_notebooks --data $(DATA) $(NOTEBOOKS)

notebooks: $(INSTALLED)  ## executes the notebooks on real data and replaces the committed ones
	$(PY) -m tools.run_notebooks --in-place $(NOTEBOOKS)

test: $(INSTALLED)  ## runs the tests
	$(PY) -m pytest

lint: $(INSTALLED)  ## checks style and format of modules and notebooks
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: $(INSTALLED)  ## formats modules and notebooks
	$(PY) -m ruff format .

clean:  ## removes logs, checkpoints and executed copies; keeps data and environment
	rm -rf build runs
