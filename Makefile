# make demo   sets everything up and runs the main job on the embedded corpus
# make test   sets everything up and runs lint, types, import contracts and all tests
# make nightly runs the tests of faults that take minutes each
# Needs Linux, Python 3.11 or newer and make; no compiler.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CLUSTER_TESTS := $(filter-out tests/unit tests/__pycache__,$(patsubst %/,%,$(wildcard tests/*/)))

.PHONY: demo test nightly lint unit setup clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (torch, ray, deepspeed, mlflow, ...): a few minutes, once."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

demo: setup
	$(BIN)/raykd demo

lint: setup
	$(BIN)/ruff check raykd tests benchmarks
	$(BIN)/lint-imports
	$(BIN)/mypy

unit: setup
	$(BIN)/python -m pytest tests/unit

# Tests that start processes mostly wait for them: two at a time, and unit tests beside them, which come second when all
# want a core.
test: lint
	@log=$$(mktemp); nice -n 19 $(BIN)/python -m pytest tests/unit >$$log 2>&1 & unit=$$!; \
	$(BIN)/python -m pytest -n 2 --dist loadgroup $(CLUSTER_TESTS); cluster=$$?; \
	wait $$unit; unit=$$?; cat $$log; rm -f $$log; test $$cluster -eq 0 -a $$unit -eq 0

nightly: setup
	$(BIN)/python -m pytest tests -m nightly

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .import_linter_cache
