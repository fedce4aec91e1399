# make run      executes the three notebooks on generated samples (DATA=real: on the real data)
# make test     runs all tests, the notebooks on samples among them
# make help     lists everything
VENV ?= .venv
PYTHON ?= python3
DATA ?= sample
NOTEBOOKS ?=
SET ?=
FILE ?=
DIR ?=
EXECUTE ?=
SEEDS ?= 1 2
KILLS ?= 20
WRITE ?=
ID ?=
REPO ?=
REF ?= main

PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.hw4-installed
RECORD := $(if $(WRITE),--write)

.PHONY: help run notebooks test quick grade mutants chaos bench seeds submission standalone publish site colab-check \
  browser-test lint format clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*##/\t/' | expand -t 14
	@echo 'WRITE=1 lets grade, mutants, chaos, bench, seeds and colab-check put their tables into docs/'

# The stamp is newer than the requirements once they are installed, so a second call installs nothing.
$(INSTALLED): requirements.txt requirements-dev.txt constraints.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --disable-pip-version-check -r requirements-dev.txt -c constraints.txt
	touch $@

run: $(INSTALLED)  ## executes the notebooks into build/ and prints a table; DATA=sample|real|auto, NOTEBOOKS="hw4_rnn ...", SET="seed=2 epochs=1"
	$(PY) -m tools.run_notebooks --data $(DATA) $(NOTEBOOKS) $(if $(SET),--set $(SET))

notebooks: $(INSTALLED)  ## executes the notebooks on real data and replaces the committed ones
	$(PY) -m tools.run_notebooks --in-place $(NOTEBOOKS)

test: $(INSTALLED)  ## runs all tests on two cores, the notebooks on samples among them
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadgroup

quick: $(INSTALLED)  ## runs the tests that take seconds
	$(PY) -m pytest -m "not slow and not browser"

grade: $(INSTALLED)  ## grades the notebooks, or FILE=other.ipynb, or a folder of submissions DIR=... (their code is executed!); EXECUTE=1: also whole, on samples
	$(if $(WRITE),$(PY) -m tools.tables grade) $(PY) -m grader $(if $(FILE)$(DIR),"$(FILE)$(DIR)") $(if $(EXECUTE),--execute)

mutants: $(INSTALLED)  ## puts mutations into copies of the code and reports which the tests catch
	$(PY) -m tools.mutants $(RECORD)

chaos: $(INSTALLED)  ## kills trainings at random moments, resumes them and compares the weights; KILLS=20
	$(PY) -m tools.chaos --kills $(KILLS) $(RECORD)

bench: $(INSTALLED)  ## times the hand-written code beside PyTorch's own
	$(PY) -m benchmarks.bench $(RECORD)

seeds: $(INSTALLED)  ## executes the notebooks with other seeds; DATA=sample|real, SEEDS="1 2", NOTEBOOKS="hw4_rnn ..."
	$(PY) -m benchmarks.seeds --data $(DATA) $(SEEDS:%=--seed %) $(NOTEBOOKS) $(RECORD)

submission: $(INSTALLED)  ## checks the saved notebooks and packs them: make submission ID=2024-20000
	$(PY) -m tools.submission "$(ID)"

standalone: $(INSTALLED)  ## writes notebooks that need no other file of the project into build/
	$(PY) -m tools.standalone

publish: $(INSTALLED)  ## points badges and setup cells at a public copy: REPO=owner/name REF=main; without REPO back to the upload
	$(PY) -m tools.publish $(REPO) --ref $(REF)

site: $(INSTALLED)  ## writes the saved notebooks as static pages into build/site/
	$(PY) -m tools.site

colab-check: $(INSTALLED)  ## runs the notebooks on Colab's versions of Python and packages, in a throw-away Debian (root, half an hour)
	$(PY) -m tools.colab_check $(RECORD)

browser-test: $(INSTALLED)  ## drives the notebooks on samples in headless Chromium (apt-get install chromium)
	$(PY) -m pytest -m browser tests/test_browser.py

lint: $(INSTALLED)  ## checks style and format of modules and notebooks
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: $(INSTALLED)  ## formats modules and notebooks
	$(PY) -m ruff format .

clean:  ## removes logs, checkpoints and executed copies; keeps data and environment
	rm -rf build runs
