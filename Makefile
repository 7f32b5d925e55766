# Everything works on a fresh machine with Python 3.11 or newer: each target makes .venv and installs what it needs.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test test-all check bench readme clean

install: .venv/installed

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: install
	$(BIN)/cctkit train --dataset digits

PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test: install
	$(PYTEST) -m "not slow"

test-all: install  # the long sweeps too
	CCTKIT_MUTANTS=1000 $(PYTEST)

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_floors.py

bench: install
	$(BIN)/python -m benchmarks.speed
	$(BIN)/python -m benchmarks.augment
	$(BIN)/python -m benchmarks.startup

readme: install  # its outputs and pictures, by the commands that it shows
	$(BIN)/python docs/outputs.py

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
