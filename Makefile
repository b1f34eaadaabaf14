# `make demo` creates the environment in .venv first, and creates it again when the lock changes.

VENV := .venv
BIN := $(VENV)/bin

# The first of these with version 3.11 to 3.13. To use another one: `make demo PYTHON=python3.12`.
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
ifeq ($(origin PYTHON),undefined)
PYTHON := $(shell for python in python3 python3.13 python3.12 python3.11; do \
	if $$python -c '$(SUPPORTED)' 2>/dev/null; then echo $$python; break; fi; done)
endif
VERSION := $(or $(if $(PYTHON),$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)),none)

# One marker per Python version: with another version the environment is created again.
INSTALLED := $(VENV)/installed-$(VERSION)

# Plugins of `llm`, and the browser driver with web frameworks for tests, and the text splitters that the benchmarks compare with.
PLUGINS := $(VENV)/plugins
BROWSER := $(VENV)/browser
RIVALS := $(VENV)/bench

# The tests spend half of their time waiting for servers, workers and timeouts: three processes keep two cores busy.
SPREAD := -n 3 --dist worksteal

# The demo and the tests start their own services, so they must not see the addresses in your environment.
unexport DATABASE_URL BROKER_URL RESULT_BACKEND $(filter CELERY_%,$(.VARIABLES))

# The tests start Python some hundred times: without cached bytecode, each start compiles every module again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test test-all test-newest soak lint docs bench lock clean

help:
	@echo "make demo         index sample documents with real services, ask questions about them, clean up"
	@echo "make test         run the quick tests with real services"
	@echo "make test-all     run the long tests too"
	@echo "make test-newest  run the quick tests on the newest Celery, kombu and Flower, pinned or not"
	@echo "make soak         run long fault injection, simulation and mutation tests: over an hour"
	@echo "make lint         check with ruff and mypy"
	@echo "make bench        run the benchmarks"
	@echo "make docs         regenerate the reference pages from the code"
	@echo "make lock         update the lock files from pyproject.toml (needs uv)"
	@echo "make clean        remove everything that make has created"

demo: $(INSTALLED)
	@$(BIN)/vector-index demo

test: $(INSTALLED)
	@$(BIN)/python -m pytest $(SPREAD) -m "not slow"

test-all: $(INSTALLED) $(PLUGINS) $(BROWSER)
	@LLM_PLUGINS_FOLDER=$(PLUGINS) BROWSER_FOLDER=$(BROWSER) $(BIN)/python -m pytest $(SPREAD)

# In an environment of its own. The pins in pyproject.toml are ignored on purpose, so pip reports conflicts.
NEWEST := $(VENV)-newest
test-newest:
	@$(MAKE) --no-print-directory VENV=$(NEWEST) $(NEWEST)/installed-$(VERSION)
	@$(NEWEST)/bin/python -m pip install -qq --disable-pip-version-check --upgrade "celery[redis]" kombu billiard flower
	@$(NEWEST)/bin/python -m pytest $(SPREAD) -m "not slow"

lint: $(INSTALLED)
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

docs: $(INSTALLED)
	@$(BIN)/python -m docs.generate

soak: $(INSTALLED)
	@$(BIN)/python -m tests.soak

bench: $(INSTALLED) $(RIVALS)
	@PYTHONPATH=$(RIVALS) $(BIN)/python -m benchmarks
	@$(BIN)/python -m benchmarks.rivals --contenders ours,sketch,script,pgai --repeats 1

# In folders of their own, so that the demo's workers do not load them.
$(PLUGINS) $(BROWSER) $(RIVALS): $(VENV)/%: requirements-%.lock $(INSTALLED)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --upgrade --no-deps --require-hashes --target $@ -r $< && \
	touch $@

# --no-build-isolation: the build backend is in the lock, so every package is pinned
$(INSTALLED): requirements.lock pyproject.toml | $(BIN)/pip$(VERSION)
	@echo "Installing $$(grep -c == requirements.lock) tested packages into $(VENV): about a minute, once."
	@start=$$(date +%s) && \
	$(BIN)/python -m pip install -qq --disable-pip-version-check --require-hashes -r requirements.lock && \
	$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable . && \
	touch $@ && echo "Installed in $$(($$(date +%s) - start)) s."

# venv installs pip last: if it exists, the environment is complete and uses this Python
$(BIN)/pip$(VERSION):
	@$(if $(PYTHON),$(PYTHON),false) -c '$(SUPPORTED)' 2>/dev/null || { echo "This needs Python 3.11, 3.12 or 3.13, and \
	$(or $(PYTHON),python3) is $$($(or $(PYTHON),python3) -c 'import platform; print(platform.python_version())' \
	2>/dev/null || echo missing): install one, or pass its path: make demo PYTHON=/path/to/python3.13" >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) >/dev/null 2>&1 || { echo "$(PYTHON) cannot create an environment in $(VENV): \
	install its venv module (on Debian and Ubuntu: apt install python$(VERSION)-venv), and check that the folder \
	is writable." >&2; exit 1; }

# For every Python and platform. requirements-runtime.lock is for images: without tests and embedded services.
LOCK := uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes --no-annotate \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" pyproject.toml
# the small locks leave out the packages of requirements.lock
ON_TOP = --constraints requirements.lock $$(sed -n 's/==.*//; s/^[a-z]/--no-emit-package &/p' requirements.lock)
lock:
	$(LOCK) --extra dev --output-file requirements.lock
	$(LOCK) --extra flower --constraints requirements.lock --output-file requirements-runtime.lock
	$(LOCK) --extra plugins $(ON_TOP) --output-file requirements-plugins.lock
	$(LOCK) --extra browser $(ON_TOP) --output-file requirements-browser.lock
	$(LOCK) --extra bench $(ON_TOP) --output-file requirements-bench.lock

clean:
	rm -rf $(VENV) $(NEWEST) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
