# `make` alone lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A process a core, so one thread each; a caller's own OMP_NUM_THREADS stands. What Python compiles is kept, whatever the
# caller says of it: otherwise each of some hundred processes compiles all files again.
PYTEST = PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest --numprocesses auto --dist worksteal

.PHONY: help install develop demo test test-fast check format clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(VENV)/.ready ## make .venv and install hybridkit with its tested dependencies

develop: $(VENV)/.developer ## the same with every extra that installs on a CPU, and the tools of the tests

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.developer: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: install ## train the quickstart recipe on real text, then let the model write; again: resumes or says it is done
	$(BIN)/hybridkit train quickstart --run runs/quickstart --resume
	$(BIN)/hybridkit generate runs/quickstart "def " --tokens 200 --temperature 0.7 --seed 1

test: develop ## run the whole test suite, a process a core
	$(PYTEST)

test-fast: develop ## the part of it for every save: what is not marked slow
	$(PYTEST) -m "not slow"

check: develop ## lint, formatting, types and the order of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: develop ## rewrite the code in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove .venv and caches, never runs/
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
