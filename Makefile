# The commands for people and for .ci/run. Works with GNU make 3.81 and later; needs Python 3.11 or newer.

SHELL := /bin/sh
.DEFAULT_GOAL := help

# The first Python that really runs (a pyenv shim may exist and fail), is new enough and can make a virtual
# environment (Debian has that in a separate package).
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
	if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; \
	then echo "$$python"; break; fi; done)
PYTEST_ARGS ?=
DEMO_ARGS ?=
BENCH_ARGS ?=
CRASH_ARGS ?=
STORM_ARGS ?=
SCALE_ARGS ?=
INSTALL_ARGS ?=

VENV := .venv
VENV_PYTHON := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
BENCH_INSTALLED := $(VENV)/.bench-installed
UV_VERSION := 0.13.9
PIP_AUDIT_VERSION := 2.10.1
# Debian's Chromium, in which the tests use the operator's page; installed if possible.
BROWSER := command -v chromium >/dev/null || command -v chromium-browser >/dev/null || \
	{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && echo "installing chromium, for the tests in a browser" && \
	apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; } || \
	{ echo "chromium is missing, and the tests use the page in it (Debian: apt-get install chromium)." >&2; exit 1; }
# Fails when PyPI, or a mirror, has no answer about a package that we pin.
ASK_PYPI := import importlib.metadata as m, urllib.request as r; \
	r.urlopen("https://pypi.org/pypi/certifi/" + m.version("certifi") + "/json", timeout=10)

.PHONY: install upgrade uninstall test-install help test test-zones test-migrations test-calm test-single-run test-crash test-storm test-scale demo bench lint audit pins \
	check format clean

help: ## list these targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -e 's/:.*## /	/' | expand -t 18

# On a server. PREFIX, PAGE=1, WORKERS=1, DRY_RUN=1, PURGE=1 and the owner's DB_USER and DB_PASSWORD are passed to the script.
install: ## on a server, as root: users, folders, /opt/a1-to-a2, units, the command a1-to-a2; DRY_RUN=1 shows it, PAGE=1, WORKERS=1
	@bash scripts/deployment/install.sh install

upgrade: ## on a server, as root, from the new checkout: DB_USER=OWNER DB_PASSWORD=... make upgrade; goes back if it fails
	@bash scripts/deployment/install.sh upgrade

uninstall: ## on a server, as root: keeps settings and database; PURGE=1 also removes the settings
	@bash scripts/deployment/install.sh uninstall

test-install: $(INSTALLED) ## as root, on Debian: install, upgrade and remove it in bare Debian roots (debootstrap)
	PYTHONPATH=tests:scripts $(VENV_PYTHON) -m install $(INSTALL_ARGS)

test: $(INSTALLED) ## run all tests; PYTEST_ARGS="-k retry" for a part of them
	@$(BROWSER)
	$(VENV_PYTHON) -m pytest -n 4 $(PYTEST_ARGS)

test-zones: $(INSTALLED) ## the cadence over every clock change of every time zone, 2025 to 2037
	$(VENV_PYTHON) -m pytest -n 2 -m zones tests/unit/rules/test_cadence.py

test-migrations: $(INSTALLED) ## the migrations on five million rows in use: nobody waits 200 ms
	$(VENV_PYTHON) -m pytest -m migrations -s tests/integration/upkeep/test_migrations.py

test-calm: $(INSTALLED) ## a simulated month of 1,000 stuck campaigns, a run every 3 minutes, with outages
	$(VENV_PYTHON) -m pytest -m calm tests/integration/upload/test_calm.py

test-single-run: $(INSTALLED) ## 200 rounds of 32 processes and 25 of real uploaders, frozen and disconnected
	$(VENV_PYTHON) -m pytest -s -m single_run tests/single_run tests/acceptance/upload/test_single_run.py

test-crash: $(INSTALLED) ## kill the programs 2,000 times, at every step; CRASH_ARGS="--seed 2 --kills 100"
	$(VENV_PYTHON) -m pytest -s -m crash tests/crash $(CRASH_ARGS)

test-storm: $(INSTALLED) ## 1,000 campaigns with everything failing at random; STORM_ARGS="--campaigns 50 --assets 500"
	$(VENV_PYTHON) -m pytest -m storm tests/crash $(STORM_ARGS)

test-scale: $(INSTALLED) ## as root: workers on 3 hosts, killed, frozen and cut off; SCALE_ARGS="--campaigns 30 --disturbances 8"
	$(VENV_PYTHON) -m pytest -s -m scale tests/scale tests/acceptance/scale $(SCALE_ARGS)

demo: $(INSTALLED) ## show the whole job on this machine, with simulated systems; DEMO_ARGS="--help" for its options
	$(VENV_PYTHON) scripts/demo.py $(DEMO_ARGS)

bench: $(BENCH_INSTALLED) ## compare the uploader with other tools; BENCH_ARGS="--help" for its options
	PYTHONPATH=tests:scripts $(VENV_PYTHON) -m bench $(BENCH_ARGS)

lint: $(INSTALLED) ## formatting, ruff, mypy and bandit, changing nothing
	$(VENV_PYTHON) -m ruff format --check .
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m mypy
	$(VENV_PYTHON) -m bandit --quiet --recursive scripts --configfile pyproject.toml

audit: $(INSTALLED) ## look up the pinned packages in the database of known vulnerabilities, if it can be reached
	@if ! $(VENV_PYTHON) -c '$(ASK_PYPI)' 2>/dev/null; then \
		echo "audit: PyPI's database of known vulnerabilities, or its word on our versions, cannot be had from here;" \
			"nothing was looked up."; \
	else \
		$(VENV_PYTHON) -m pip install --quiet --disable-pip-version-check pip-audit==$(PIP_AUDIT_VERSION) && \
		$(VENV_PYTHON) -m pip_audit --strict --progress-spinner off --disable-pip --require-hashes -r requirements.txt -r requirements-page.txt \
			-r requirements-scale.txt; \
	fi

pins: $(INSTALLED) ## make the lists of requirements again from pyproject.toml: exact versions and hashes, for every platform
	$(VENV_PYTHON) -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(call compiled,requirements.txt,pyproject.toml)
	$(call compiled,requirements-page.txt,--group page --constraint requirements.txt)
	$(call compiled,requirements-scale.txt,--group scale --constraint requirements.txt)
	$(call compiled,requirements-dev.txt,--group dev --constraint requirements.txt --constraint requirements-page.txt \
		--constraint requirements-scale.txt)

# A list keeps the words at its head.
define compiled
sed -n '/^#/!q;p' $(1) > requirements.new
$(VENV)/bin/uv pip compile $(2) --quiet --no-config --universal --python-version 3.11 \
	--generate-hashes --no-header --upgrade >> requirements.new
mv requirements.new $(1)
endef

check: lint test ## lint, then test

format: $(INSTALLED) ## let ruff format the code and fix what it can
	$(VENV_PYTHON) -m ruff format .
	$(VENV_PYTHON) -m ruff check --fix .

clean: ## remove the virtual environment and the tools' caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find scripts tests -type d -name __pycache__ -prune -exec rm -rf {} +

# Made again when it is missing or no longer runs (for example, because its Python was removed).
$(INSTALLED): requirements.txt requirements-page.txt requirements-scale.txt requirements-dev.txt
	@if ! $(VENV_PYTHON) -c 'import pip' >/dev/null 2>&1; then \
		if [ -z "$(PYTHON)" ] && python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
			echo "Python cannot make virtual environments here: install python3-venv (Debian: apt-get install python3-venv)." >&2; exit 1; \
		elif ! "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
			echo "Python 3.11 or newer is needed and $(if $(PYTHON),$(PYTHON) is not one,none was found): install it, or name one with make PYTHON=/path/to/python3.11." >&2; exit 1; \
		fi; \
		echo "$(PYTHON) -m venv $(VENV)"; \
		"$(PYTHON)" -m venv --clear $(VENV); \
	fi
	$(VENV_PYTHON) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	$(VENV_PYTHON) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-page.txt
	$(VENV_PYTHON) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-scale.txt
	$(VENV_PYTHON) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $(INSTALLED)

$(BENCH_INSTALLED): $(INSTALLED) tests/bench/requirements.txt
	$(VENV_PYTHON) -m pip install --quiet --disable-pip-version-check -r tests/bench/requirements.txt
	@touch $(BENCH_INSTALLED)
