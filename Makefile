# `make demo` is all it takes: the environment in .venv is made, and made anew when the lock has changed.

VENV := .venv
BIN := $(VENV)/bin

# The first of these that is 3.11 to 3.13; `make demo PYTHON=python3.12` names another.
FITS := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
ifeq ($(origin PYTHON),undefined)
PYTHON := $(shell for python in python3 python3.13 python3.12 python3.11; do \
	if $$python -c '$(FITS)' 2>/dev/null; then echo $$python; break; fi; done)
endif
VERSION := $(or $(if $(PYTHON),$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)),none)

# One mark per Python: of another, the environment is made anew.
INSTALLED := $(VENV)/installed-$(VERSION)

# Plugins of `llm` and the driver of a browser for tests, and the splitters that the benchmarks compare with.
PLUGINS := $(VENV)/plugins
BROWSER := $(VENV)/browser
RIVALS := $(VENV)/bench

# Half of the time the tests wait, for servers, workers and timeouts: three processes use two cores.
SPREAD := -n 3 --dist worksteal

# What the surrounding environment says about services is not meant for the demo and the tests.
unexport DATABASE_URL BROKER_URL RESULT_BACKEND $(filter CELERY_%,$(.VARIABLES))

.PHONY: help demo test test-all soak lint docs bench lock clean

help:
	@echo "make demo      index real text with real services, ask it questions, stop everything"
	@echo "make test      the tests on real services; make test-all: the long ones too"
	@echo "make soak      every fault at length, ten minutes of simulation, each rule taken away: over an hour"
	@echo "make lint      ruff and mypy; make bench: the benchmarks"
	@echo "make docs      the reference pages anew, from the code"
	@echo "make lock      the locks anew from pyproject.toml (needs uv); make clean: what make has made"

demo: $(INSTALLED)
	@$(BIN)/vector-index demo

test: $(INSTALLED)
	@$(BIN)/python -m pytest $(SPREAD) -m "not slow"

test-all: $(INSTALLED) $(PLUGINS) $(BROWSER)
	@LLM_PLUGINS_FOLDER=$(PLUGINS) BROWSER_FOLDER=$(BROWSER) $(BIN)/python -m pytest $(SPREAD)

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

# Outside of the environment's own packages: no worker of the demo loads them.
$(PLUGINS) $(BROWSER) $(RIVALS): $(VENV)/%: requirements-%.lock $(INSTALLED)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --upgrade --no-deps --require-hashes --target $@ -r $< && \
	touch $@

# --no-build-isolation: the builder is in the lock too, so nothing comes unpinned
$(INSTALLED): requirements.lock pyproject.toml | $(BIN)/pip$(VERSION)
	@echo "Installing $$(grep -c == requirements.lock) tested packages into $(VENV): about a minute, once."
	@start=$$(date +%s) && \
	$(BIN)/python -m pip install -qq --disable-pip-version-check --require-hashes -r requirements.lock && \
	$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable . && \
	touch $@ && echo "Installed in $$(($$(date +%s) - start)) s."

# pip comes last into a new environment: where it is, the environment is whole and of this Python
$(BIN)/pip$(VERSION):
	@$(if $(PYTHON),$(PYTHON),false) -c '$(FITS)' 2>/dev/null || { echo "This needs Python 3.11, 3.12 or 3.13, and \
	$(or $(PYTHON),python3) is $$($(or $(PYTHON),python3) -c 'import platform; print(platform.python_version())' \
	2>/dev/null || echo missing): install one, or name it: make demo PYTHON=/path/to/python3.13" >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) >/dev/null 2>&1 || { echo "$(PYTHON) cannot make an environment in $(VENV): \
	install its venv module (on Debian and Ubuntu: apt install python$(VERSION)-venv), and check that the folder \
	can be written." >&2; exit 1; }

# For every Python and platform. The second is for images: no tests, no embedded services.
LOCK := uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes --no-annotate \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" pyproject.toml
# what is in the first lock is not repeated in the small ones
ON_TOP = --constraints requirements.lock $$(sed -n 's/==.*//; s/^[a-z]/--no-emit-package &/p' requirements.lock)
lock:
	$(LOCK) --extra dev --output-file requirements.lock
	$(LOCK) --extra flower --constraints requirements.lock --output-file requirements-runtime.lock
	$(LOCK) --extra plugins $(ON_TOP) --output-file requirements-plugins.lock
	$(LOCK) --extra browser $(ON_TOP) --output-file requirements-browser.lock
	$(LOCK) --extra bench $(ON_TOP) --output-file requirements-bench.lock

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
