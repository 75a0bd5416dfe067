# make demo: the example project, traced, from a bare clone. make test: everything that must pass. Both need only Python
# and git: no C compiler, and no server that is not installed by pip.

PYTHON ?= python3
VENV ?= .venv
DJANGO ?= django
# Two processes, each with whole files, whose tests share servers: a test mostly waits for a server. With more than two,
# UDP to a Jaeger loses spans.
PYTEST ?= -n 2 --dist loadfile
# Empty: the tests run without measuring coverage.
COVERAGE ?= yes
# What hardly depends on the interpreter; empty, it is left out.
CHECKS ?= lint types
WHEEL ?= wheel
BIN = $(VENV)/bin
# Its data: one file from each process, some of which run in other folders.
MEASURED = COVERAGE_FILE=$(abspath $(VENV))/coverage/data $(BIN)/python -m coverage
# Not --quiet: it takes a minute, and shows what it does. Without setuptools' advice about editable installations.
PIP = PYTHONWARNINGS="ignore:Editable installation" $(BIN)/python -m pip --disable-pip-version-check

.PHONY: setup demo test lint types unit wheel storages sites skins tracers docs audit release-check release benchmark faults fuzz soak concurrency screenshots sql-agreement mutants clean

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
ifeq ($(COVERAGE),)
	$(BIN)/python -m pytest $(PYTEST)
else
	rm -rf $(VENV)/coverage
	mkdir $(VENV)/coverage
	$(MEASURED) run -m pytest $(PYTEST)
	$(MEASURED) combine --quiet
	$(MEASURED) report
endif

# The wheel as a user gets it, in its own virtual environment, used from outside the checkout.
wheel: $(VENV)/.test
	PYTHON=$(BIN)/python sh tests/wheel.sh

# Reading from a Jaeger with OpenSearch and with Cassandra. Needs Java 17 and Maven; not part of make test.
storages: $(VENV)/.test
	$(BIN)/python -m tests.storages -- $(BIN)/python -m pytest tests/traces/readers/jaeger/test_paging.py

# Real sites (Wagtail, django CMS, Oscar, REST framework, Ninja, Strawberry), traced and untraced, in an environment of
# their own; not part of make test.
sites: .venv-sites/.installed
	.venv-sites/bin/python -m pytest tests/e2e/sites

.venv-sites/.installed: setup.cfg tests/e2e/sites/requirements.txt
	$(PYTHON) -m venv .venv-sites
	.venv-sites/bin/python -m pip --disable-pip-version-check --quiet install --editable ".[test]" "$(DJANGO)" -r tests/e2e/sites/requirements.txt
	touch $@

# Themes of the admin (django-unfold, Grappelli, Jazzmin) in a browser, in an environment of their own; not part of make test.
skins: .venv-skins/.installed
	.venv-skins/bin/python -m pytest tests/e2e/skins

.venv-skins/.installed: setup.cfg tests/e2e/skins/requirements.txt
	$(PYTHON) -m venv .venv-skins
	.venv-skins/bin/python -m pip --disable-pip-version-check --quiet install --editable ".[test]" "$(DJANGO)" -r tests/e2e/skins/requirements.txt
	touch $@

# Other tracers (ddtrace, Sentry, Elastic APM, New Relic, Logfire) beside this app, in an environment of their own; not part
# of make test.
tracers: .venv-tracers/.installed
	.venv-tracers/bin/python -m pytest tests/e2e/tracers

.venv-tracers/.installed: setup.cfg tests/e2e/tracers/requirements.txt
	$(PYTHON) -m venv .venv-tracers
	.venv-tracers/bin/python -m pip --disable-pip-version-check --quiet install --editable ".[test]" "$(DJANGO)" -r tests/e2e/tracers/requirements.txt
	touch $@

# The documentation site, in docs/_build/html. A warning is an error.
docs: $(VENV)/.docs
	rm -rf docs/_build
	$(BIN)/python -m sphinx -b html -W --keep-going -n -q docs docs/_build/html
	@echo "open docs/_build/html/index.html"

$(VENV)/.docs: $(VENV)/bin/python setup.cfg
	$(PIP) install --editable ".[docs]" "$(DJANGO)"
	touch $@

# Known vulnerabilities of everything that setup.cfg can install, in an environment of their own. Asks PyPI; a package that
# could not be looked up is an error, too.
audit: .venv-audit/.installed
	.venv-audit/bin/python -m pip --disable-pip-version-check freeze --exclude-editable > .venv-audit/installed.txt
	.venv-audit/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off --requirement .venv-audit/installed.txt

.venv-audit/.installed: setup.cfg
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip --disable-pip-version-check --quiet install --editable ".[all]" "$(DJANGO)" pip-audit
	touch $@

# What is missing for a release (TAG=v1.2.3 compares the tag, too), and the files of one, in dist/.
release-check: $(VENV)/bin/python
	$(BIN)/python -m tests.release check $(if $(TAG),--tag $(TAG))

release: $(VENV)/.test
	$(BIN)/python -m tests.release build

# An interpreter that cannot be used leaves no bin/python, which the next make would take for a good one.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "This is Python %s, and 3.10 or later is needed. Choose another one, for example: make setup PYTHON=python3.13" % sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV) || { rm -rf $(BIN); exit 1; }
	$(PIP) install --upgrade pip

$(VENV)/.demo: $(VENV)/bin/python setup.cfg
	@echo "Installing the demo and its packages into $(VENV), once. This may take some minutes."
	$(PIP) install --editable ".[demo]" "$(DJANGO)"
	touch $@

$(VENV)/.test: $(VENV)/bin/python setup.cfg
	$(PIP) install --editable ".[test]" "$(DJANGO)"
	touch $@

# The pictures in README.md and docs/.
screenshots: $(VENV)/.test
	$(BIN)/python manage.py screenshots

# The cost of tracing, compared with OpenTelemetry's own instrumentation: make benchmark BENCHMARK="--peers", or "--profile FOLDER".
benchmark: $(VENV)/.benchmark
	$(BIN)/python -m benchmarks $(BENCHMARK)

$(VENV)/.benchmark: $(VENV)/bin/python setup.cfg
	$(PIP) install --editable ".[benchmark]" "$(DJANGO)"
	touch $@

# Each fault of the receiver, the network, the process and the storage, under load, with an account of every span. Not part
# of make test, which has a quick one: make faults FAULTS="TLS SIGKILL" runs only the faults with these words.
faults: .venv-faults/.installed
	.venv-faults/bin/python -W ignore -m tests.e2e.faults $(FAULTS)

# One by one: uWSGI needs a C compiler, and mod_wsgi Apache's headers, too. Without one, its faults are left out.
.venv-faults/.installed: setup.cfg tests/e2e/faults/requirements.txt
	$(PYTHON) -m venv .venv-faults
	.venv-faults/bin/python -m pip --disable-pip-version-check --quiet install --editable ".[test]" "$(DJANGO)"
	grep -v '^#' tests/e2e/faults/requirements.txt | while read -r package; do .venv-faults/bin/python -m pip --disable-pip-version-check --quiet install "$$package" || echo "$$package is not installed: its faults are left out"; done
	touch $@

# The example's services for minutes under a mixed load, with faults that come and go: memory, descriptors and threads have
# to stay flat, and every span accounted for. make soak SOAK="--minutes 60" runs longer than 10 minutes.
soak: $(VENV)/.test
	$(BIN)/python -W ignore -m tests.e2e.soak $(SOAK)

# 10,000 interleaved requests, in an order that a seed chooses: no request sees another one's identity.
concurrency: $(VENV)/.test
	CONCURRENT_REQUESTS=10000 $(BIN)/python -m pytest tests/test_concurrency.py

# Give hostile input to everything that reads what comes from the network or from users:
# make fuzz FUZZ="--cases 1000000 SQL spool". It takes hours; tests/test_fuzz.py has the quick part.
fuzz: $(VENV)/.test
	$(BIN)/python -W ignore -m tests.fuzz $(FUZZ)

# How often the operation and the tables of a statement are those that a parser of the database finds. Fetch the regression
# tests of the databases by hand: make sql-agreement AGREEMENT="--postgresql src/test/regress/sql --mysql mysql-test/main".
sql-agreement: $(VENV)/.agreement
	$(BIN)/python -m benchmarks.sql_agreement $(AGREEMENT)

$(VENV)/.agreement: $(VENV)/bin/python setup.cfg
	$(PIP) install --editable . "$(DJANGO)" pglast sqlglot
	touch $@

# Changes of the code that no test notices: make mutants MUTANTS="--sample 40 --seed 1 export.spool". Without MUTANTS, all
# mutants of all parts are tested, which takes a night; interrupted, it goes on where it was. Not part of make test.
mutants: .venv-mutants/.installed
	.venv-mutants/bin/python -m tests.mutants $(MUTANTS)

.venv-mutants/.installed: setup.cfg tests/mutants/requirements.txt
	$(PYTHON) -m venv .venv-mutants
	.venv-mutants/bin/python -m pip --disable-pip-version-check --quiet install --editable ".[test]" "$(DJANGO)" -r tests/mutants/requirements.txt
	touch $@

clean:
	rm -rf $(VENV) .venv-benchmarks .venv-faults .venv-mutants .mutants .venv-audit .venv-sites .venv-skins .tox build dist docs/_build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache .venv-tracers
