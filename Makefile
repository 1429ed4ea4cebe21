# Each target installs what it needs into $(VENV); a bare machine needs Python >= 3.10 and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
FLOOR := $(CURDIR)/.venv-floor

.PHONY: demo test test-slow test-floor lint docs wheel clean

demo: $(INSTALLED)
	$(BIN)/python examples/arithmetic/demo.py --output_dir outputs/demo

# One thread a worker: the models are tiny, and threads that wait for each other cost more than they compute.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m "not slow"

test-slow: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m slow

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Writes the pages' tables anew from the code, and the site to build/docs; a broken link is an error.
docs: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	$(BIN)/python -m docs.tables
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# what an earlier build left would be packed again
wheel: $(INSTALLED)
	rm -rf build/lib dist
	$(BIN)/python -m build --wheel --no-isolation

# The wheel in a fresh environment with the oldest versions it asks for: a command from another directory, the core's tests.
test-floor: wheel
	rm -rf $(FLOOR)
	$(PYTHON) -m venv $(FLOOR)
	$(FLOOR)/bin/python -m pip install --quiet --constraint constraints-floor.txt "$$(ls dist/*.whl)[cards,evaluate,peft,train]" \
		hypothesis pytest pytest-xdist scipy
	cd / && $(FLOOR)/bin/dvpo train-critic --help > /dev/null
	OMP_NUM_THREADS=1 $(FLOOR)/bin/pytest -n auto -m "not slow" tests/critic tests/inference tests/metrics tests/text \
		tests/training/data tests/test_auto.py tests/test_auto_refusals.py tests/test_returns.py

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	touch $@

clean:
	rm -rf $(VENV) $(FLOOR) outputs build dist *.egg-info
