# make run      executes the three notebooks on generated samples (DATA=real: on the real data)
# make test     runs the tests, executes the notebooks on samples, and grades them
# make help     lists everything
VENV ?= .venv
PYTHON ?= python3
DATA ?= sample
NOTEBOOKS ?=
FILE ?=
KILLS ?= 20
ID ?=

PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.hw4-installed

.PHONY: help run notebooks lab test quick browser-test colab-check grade submission site mutants chaos proof bench bars \
  reach seeds lint format clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*##/\t/' | expand -t 14

# The stamp is newer than the requirements once they are installed, so a second call installs nothing.
$(INSTALLED): requirements.txt requirements-dev.txt constraints.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --disable-pip-version-check -r requirements-dev.txt -c constraints.txt
	touch $@

run: $(INSTALLED)  ## executes the notebooks into build/ and prints a table; DATA=sample|real|auto, NOTEBOOKS="hw4_rnn ..."
	$(PY) -m tools.run_notebooks --data $(DATA) $(NOTEBOOKS)

notebooks: $(INSTALLED)  ## executes the notebooks on real data and replaces the committed ones
	$(PY) -m tools.run_notebooks --in-place $(NOTEBOOKS)

lab: $(INSTALLED)  ## opens JupyterLab on the three notebooks
	$(PY) -m tools.lab

test: $(INSTALLED)  ## runs all tests, the notebooks on samples among them, and ends with the points of every question
	$(PY) -m pytest

quick: $(INSTALLED)  ## runs the tests that take seconds
	$(PY) -m pytest -m "not slow and not browser"

browser-test: $(INSTALLED)  ## drives the notebooks on samples in headless Chromium (apt-get install chromium)
	$(PY) -m pytest -m browser tests/test_browser.py

colab-check: $(INSTALLED)  ## runs the notebooks on Colab's own Python and packages, in a throw-away Debian (root, 15 minutes)
	$(PY) -m tools.colab_check

grade: $(INSTALLED)  ## runs the tests that decide over points; FILE=other.ipynb grades that notebook (its code is executed!)
	$(PY) -m pytest tests -m question $(if $(FILE),--notebook="$(FILE)")

submission: $(INSTALLED)  ## checks the saved notebooks and packs them: make submission ID=2024-20000
	$(PY) -m tools.submission "$(ID)"

site: $(INSTALLED)  ## writes the saved notebooks as static pages into build/site/
	$(PY) -m tools.site

mutants: $(INSTALLED)  ## puts wrong edits into copies of the code and tells which the tests notice
	$(PY) -m tools.mutants

chaos: $(INSTALLED)  ## kills trainings at random moments, resumes them and compares the weights; KILLS=20
	$(PY) -m tools.chaos --kills $(KILLS)

proof: $(INSTALLED)  ## runs grade, mutants and chaos, and puts their tables into the README
	$(PY) -m tools.proof

bench: $(INSTALLED)  ## times the hand-written code beside PyTorch's own; writes benchmarks/results/
	$(PY) -m benchmarks.bench

bars: $(INSTALLED)  ## seconds to the bar, with the notebooks' models and with reference layers; DATA=sample|real|auto
	$(PY) -m benchmarks.bars --data $(DATA)

reach: $(INSTALLED)  ## seconds to the assignment's bar and beyond on the device at hand; DATA=sample|real|auto
	$(PY) -m benchmarks.reach --data $(DATA) $(NOTEBOOKS)

seeds: $(INSTALLED)  ## trains and tests with other seeds; DATA=sample|real|auto, NOTEBOOKS="rnn seq2seq"
	$(PY) -m benchmarks.seeds --data $(DATA) $(NOTEBOOKS)

lint: $(INSTALLED)  ## checks style and format of modules and notebooks
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: $(INSTALLED)  ## formats modules and notebooks
	$(PY) -m ruff format .

clean:  ## removes logs, checkpoints and executed copies; keeps data and environment
	rm -rf build runs
