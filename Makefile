# make demo: the main job, from a bare clone. make test: everything that has to be green. Both need only Python and git.

PYTHON ?= python3
VENV ?= .venv
DJANGO ?= django
# Two processes, each with whole files, whose tests share servers: much of a test is waiting for one to start. With more, UDP to a Jaeger loses spans here.
PYTEST ?= -n 2 --dist loadfile
# What is the same on every interpreter, or nearly so; empty, it is left out.
CHECKS ?= lint types
WHEEL ?= wheel
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: setup demo test lint types unit wheel docs release-check release benchmark screenshots clean

setup: $(VENV)/.test

demo: $(VENV)/.demo
	$(BIN)/python manage.py demo $(DEMO)

test: $(CHECKS) unit $(WHEEL)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/djlint --quiet --lint django_tracing/templates
	$(BIN)/lint-imports
	$(BIN)/python manage.py makemigrations --check --dry-run
	$(BIN)/python manage.py check

types: $(VENV)/.test
	$(BIN)/mypy

unit: $(VENV)/.test
	$(BIN)/python -m pytest $(PYTEST)

# The wheel as a user gets it, in a virtual environment of its own, asked from outside the checkout.
wheel: $(VENV)/.test
	PYTHON=$(BIN)/python sh tests/wheel.sh

# The documentation site, in docs/_build/html. A warning is an error.
docs: $(VENV)/.docs
	rm -rf docs/_build
	$(BIN)/python -m sphinx -b html -W --keep-going -n -q docs docs/_build/html
	@echo "open docs/_build/html/index.html"

$(VENV)/.docs: $(VENV)/bin/python setup.cfg
	$(PIP) install --editable ".[docs]" "$(DJANGO)"
	touch $@

# What is missing for a release (TAG=v1.2.3 compares the tag, too), and the files of one, in dist/.
release-check: $(VENV)/.test
	$(BIN)/python -m tests.release check $(if $(TAG),--tag $(TAG))

release: $(VENV)/.test
	$(BIN)/python -m tests.release build

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade pip

$(VENV)/.demo: $(VENV)/bin/python setup.cfg
	$(PIP) install --editable ".[demo]" "$(DJANGO)"
	touch $@

$(VENV)/.test: $(VENV)/bin/python setup.cfg
	$(PIP) install --editable ".[test]" "$(DJANGO)"
	touch $@

# The pictures of README.md and docs/.
screenshots: $(VENV)/.test
	$(BIN)/python manage.py screenshots

# What tracing costs, beside upstream OpenTelemetry: make benchmark BENCHMARK="--peers", or "--profile FOLDER".
benchmark: $(VENV)/.benchmark
	$(BIN)/python -m benchmarks $(BENCHMARK)

$(VENV)/.benchmark: $(VENV)/bin/python setup.cfg
	$(PIP) install --editable ".[benchmark]" "$(DJANGO)"
	touch $@

clean:
	rm -rf $(VENV) .venv-benchmarks .tox build dist docs/_build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
