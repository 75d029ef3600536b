# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
PY := .venv/bin/python
.DEFAULT_GOAL := help

.PHONY: help demo test test-slow test-faults lint docs clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

# Set up again when the requirements change; the stamp is written last, so an interrupted set-up is repeated.
.venv/.ready: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"Python 3.11 or newer is needed, this is {v[0]}.{v[1]}: make PYTHON=python3.11 ...")'
	@echo '== setting up .venv (torch, mmsegmentation and the rest: about a minute)'
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

demo: .venv/.ready  ## toy street, training, test and pictures in work_dirs/demo
	$(PY) tools/demo.py

test: .venv/.ready  ## the test suite (under 10 minutes on 2 cores)
	@echo '== running the tests'
	$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slow: .venv/.ready  ## the checks that take minutes
	$(PY) -m pytest -m slow

test-faults: .venv/.ready  ## hundreds of bad inputs, full disks and kills (minutes)
	$(PY) -m pytest -n 2 -m 'faults or not faults' tests/faults

lint: .venv/.ready  ## what pre-commit runs
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

docs: .venv/.ready  ## the documentation as a website in build/docs; any warning is an error
	$(PY) -m mkdocs build --strict

clean:  ## remove the environment and what runs have written
	rm -rf .venv work_dirs
