# make demo   sets everything up and runs the main job on the embedded corpus
# make test   sets everything up and runs lint, types, import contracts and all tests
# make nightly runs the tests of faults that take minutes each
# make reference writes docs/configuration.md from the code
# Needs Linux, Python 3.11 or newer and make; no compiler.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Whole runs, which share one that nothing happens to.
RUNS := tests/e2e/test_run.py tests/e2e/test_resume.py tests/e2e/test_lost_teachers.py tests/e2e/test_workers.py tests/faults

.PHONY: demo test nightly lint unit reference setup clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (torch, ray, deepspeed, mlflow, ...): a few minutes, once."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

demo: setup
	$(BIN)/raykd demo

lint: setup
	$(BIN)/ruff check raykd tests benchmarks tools
	$(BIN)/ruff format --check raykd tests benchmarks tools
	$(BIN)/lint-imports
	$(BIN)/mypy

unit: setup
	$(BIN)/python -m pytest tests/unit

# Tests that start processes mostly wait for them, so they run in three processes side by side, each with a cluster and
# fixtures of its own; unit tests come second wherever all want a core.
test: lint
	@logs=$$(mktemp -d); \
	nice -n 19 $(BIN)/python -m pytest tests/unit >$$logs/3 2>&1 & unit=$$!; \
	$(BIN)/python -m pytest $(RUNS) >$$logs/1 2>&1 & runs=$$!; \
	$(BIN)/python -m pytest tests/local_cluster >$$logs/2 2>&1 & near=$$!; \
	$(BIN)/python -m pytest tests/e2e $(RUNS:%=--ignore=%); others=$$?; \
	wait $$runs; runs=$$?; wait $$near; near=$$?; wait $$unit; unit=$$?; \
	cat $$logs/1 $$logs/2 $$logs/3; rm -rf $$logs; \
	test $$runs -eq 0 -a $$others -eq 0 -a $$near -eq 0 -a $$unit -eq 0

reference: setup
	$(BIN)/python -m tools.configuration_page --write

nightly: setup
	$(BIN)/python -m pytest tests -m nightly

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .import_linter_cache
