# Everything works on a fresh machine with Python 3.11 or newer: each target makes .venv and installs what it needs.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test test-all crash fuzz check bench docs readme wheel clean

install: .venv/installed

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: install
	$(BIN)/cctkit train --dataset digits

PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test: install
	$(PYTEST) -m "not slow"

test-all: install  # the long sweeps too
	CCTKIT_MUTANTS=1000 $(PYTEST)

fuzz: install  # spoilt files, hostile archives and names, in large numbers: a table
	$(BIN)/python -W ignore -m tests.robustness.fuzz --seed 0 --count 1000

crash: install  # kills, power cuts, full disks, signals and poisoned steps, in large numbers: a table
	$(BIN)/python -W ignore -m tests.robustness.crash

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_floors.py

bench: install
	$(BIN)/python -m benchmarks.speed
	$(BIN)/python -m benchmarks.augment
	$(BIN)/python -m benchmarks.startup

docs: .venv/docs-installed  # docs/build/index.html; the commands' reference is made from their help
	$(BIN)/python docs/links.py
	$(BIN)/sphinx-build -q -W --keep-going docs docs/build

.venv/docs-installed: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	touch $@

readme: install  # the outputs and pictures of README.md and docs, by the commands that they show
	$(BIN)/python docs/outputs.py

wheel:  # built, installed away from the repository, and tried
	rm -rf dist
	folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && unset PYTHONPATH && \
	$(PYTHON) -m venv "$$folder/venv" && \
	"$$folder/venv/bin/pip" wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist . && \
	"$$folder/venv/bin/pip" install --quiet --disable-pip-version-check dist/*.whl && \
	cd "$$folder" && \
	venv/bin/cctkit train --dataset digits --epochs 2 --output run && \
	venv/bin/cctkit eval run

clean:
	rm -rf .venv build dist docs/build docs/reference/commands.md .mypy_cache .pytest_cache .ruff_cache .hypothesis
