# The verbs of this repository. `make demo` and `make test` work on a fresh machine with Python 3.11+ and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# xdist workers; tests are independent of each other.
WORKERS ?= 2

.PHONY: demo test check bench format coverage clean

$(VENV)/.demo: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[node]'
	@touch $@

$(VENV)/.test: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@ $(VENV)/.demo

$(VENV)/.dev: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/.test $(VENV)/.demo

demo: $(VENV)/.demo  ## the main job, on a store in a temporary folder
	@$(BIN)/python docs/examples/demo.py

test: $(VENV)/.test  ## the whole test suite
	$(BIN)/python -m pytest -n $(WORKERS) -q

coverage: $(VENV)/.test  ## the test suite with line coverage of client/ and node/
	$(BIN)/python -m pytest -n $(WORKERS) -q --cov --cov-report=term-missing:skip-covered

check: $(VENV)/.dev  ## format, lint, types, layers, protos
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	PATH=$(abspath $(BIN)):$$PATH $(BIN)/lint-imports --no-cache
	cd protos && PATH=$(abspath $(BIN)):$$PATH buf lint
	cd protos && PATH=$(abspath $(BIN)):$$PATH $(abspath $(BIN))/python breaking.py
	cd protos && PATH=$(abspath $(BIN)):$$PATH $(abspath $(BIN))/python generate.py --check

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.test  ## claims about speed, as ratios against limits and peers of the same run
	$(BIN)/python -m benchmarks.embedded_store
	$(BIN)/python -m benchmarks.many_versions

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis htmlcov .coverage*
