# make demo: the main job on bundled real data · make test: the tests · make test-cluster: those that take minutes each · make lint: style and types
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-by-make

# One thread a process: trials and tests run side by side.
export OMP_NUM_THREADS ?= 1
export RAY_USAGE_STATS_ENABLED ?= 0
# Processes that share the tests; 0 runs them in one, as for --pdb.
TEST_WORKERS ?= 2

.PHONY: setup demo test test-cluster test-fast lint format lock clean

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

demo: $(STAMP)
	$(BIN)/pkdray demo

test: $(STAMP)
	$(BIN)/python -m pytest -n $(TEST_WORKERS) -m "not cluster"

test-cluster: $(STAMP)
	$(BIN)/python -m pytest -m cluster

test-fast: $(STAMP)
	$(BIN)/python -m pytest -n $(TEST_WORKERS) -m "not slow and not cluster"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(STAMP)
	$(BIN)/python scripts/lock.py

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
