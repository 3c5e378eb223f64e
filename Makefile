# Two targets matter to a newcomer: `make quickstart` and `make test`. Both set up .venv first.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test lint wheel clean

help:
	@echo "make quickstart   set up and run the whole loop; the report is runs/quickstart/report.html"
	@echo "make test         set up and run the test suite"
	@echo "make lint         formatter, linter, types, layers"
	@echo "make wheel        build the wheel and try it in a clean environment"

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt scripts/setup_environment.sh
	sh scripts/setup_environment.sh $(PYTHON) $(VENV)
	touch $@

quickstart: setup
	$(BIN)/robopref quickstart --out runs/quickstart --resume

test: setup
	$(BIN)/python -m pytest -m "not alone" -n auto --maxprocesses 8 --dist loadfile
	$(BIN)/python -m pytest -m alone

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

wheel: setup
	sh scripts/check_wheel.sh $(BIN)/python

clean:
	rm -rf $(VENV) build dist *.egg-info
