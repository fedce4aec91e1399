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
SEEDS ?= 1 2
ID ?=
REPO ?=
REF ?= main

PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.hw4-installed
SAVED := hw4_rnn.ipynb hw4_seq2seq.ipynb hw4_vit.ipynb

.PHONY: help run notebooks test quick grade bench seeds standalone submission publish lint format clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*##/\t/' | expand -t 14

# The stamp is newer than the requirements once they are installed, so a second call installs nothing.
$(INSTALLED): requirements.txt requirements-dev.txt constraints.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --disable-pip-version-check -r requirements-dev.txt -c constraints.txt
	touch $@

run: $(INSTALLED)  ## executes the notebooks into build/ and prints a table; DATA=sample|real|auto, NOTEBOOKS="hw4_rnn ...", SET="seed=2 further_epochs=1"
	$(PY) -m tools.run_notebooks --data $(DATA) $(NOTEBOOKS) $(if $(SET),--set $(SET))

notebooks: $(INSTALLED)  ## executes the notebooks on real data and replaces the saved ones
	$(PY) -m tools.run_notebooks --in-place $(NOTEBOOKS)

test: $(INSTALLED)  ## runs all tests on two cores, the notebooks on samples among them
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadgroup

quick: $(INSTALLED)  ## runs the tests that take seconds
	$(PY) -m pytest -m "not slow"

grade: $(INSTALLED)  ## grades the notebooks, or FILE=other.ipynb, or a folder of submissions DIR=... (their code is executed, in a sandbox)
	$(PY) -m grader $(if $(FILE)$(DIR),"$(FILE)$(DIR)")

bench: $(INSTALLED)  ## times the hand-written code beside PyTorch's own or plain code
	$(PY) -m benchmarks.bench

seeds: $(INSTALLED)  ## executes the notebooks with other seeds; DATA=sample|real, SEEDS="1 2", NOTEBOOKS="hw4_rnn ..."
	$(PY) -m benchmarks.seeds --data $(DATA) --seeds $(SEEDS) -- $(NOTEBOOKS)

standalone: $(INSTALLED)  ## writes into build/standalone/ notebooks that need no other file of the project
	$(PY) -m tools.standalone

submission: $(INSTALLED)  ## checks the saved notebooks and packs Part I of each: make submission ID=2024-20000
	$(PY) -m tools.submission "$(ID)"

publish: $(INSTALLED)  ## points badges and setup cells at a public copy: REPO=owner/name REF=main; without REPO back to the upload
	$(PY) -m tools.publish $(REPO) --ref $(REF)

lint: $(INSTALLED)  ## checks style and format of modules and notebooks
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m ruff check --line-length 100 $(SAVED)
	$(PY) -m ruff format --check --line-length 100 $(SAVED)

format: $(INSTALLED)  ## formats modules and notebooks
	$(PY) -m ruff format .
	$(PY) -m ruff format --line-length 100 $(SAVED)

clean:  ## removes logs, checkpoints and executed copies; keeps data and environment
	rm -rf build runs
