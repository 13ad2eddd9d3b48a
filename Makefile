# make demo    sets up .venv and trains the quickstart
# make test    sets up .venv and runs lint, mypy and the fast tests (SLOW=1: the slow ones too)
# Needs Python >= 3.11 and make; uses uv if it is installed, pip otherwise.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN := runs/quickstart
# jax 0.10 is the last version for Python 3.11; the tests passed with each set of versions.
SERIES := $(shell $(PYTHON) -c "import sys; print('py311' if sys.version_info < (3, 12) else 'py312')")
CONSTRAINTS := .constraints/$(SERIES).txt
# Caches compiled programs between runs.
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/xla

.PHONY: demo test lint suite style types setup clean

setup: $(VENV)/.core

demo: $(VENV)/.core
	$(BIN)/python -m videojax.launch --config=experiments/quickstart.py --workdir=$(RUN)

PYTEST := JAX_PLATFORMS=cpu $(BIN)/python -m pytest
test: $(VENV)/.test style
	$(MAKE) -j2 types suite
	$(if $(SLOW),$(PYTEST) -m timing -s $(ARGS))

suite: $(VENV)/.test
	$(PYTEST) -n auto --dist worksteal -m "not timing$(if $(SLOW),, and not slow)" $(ARGS)

lint: style types

style: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/mypy

$(VENV)/bin/python:
	@$(PYTHON) -c "import sys; sys.version_info >= (3, 11) or sys.exit('videojax needs Python >= 3.11; \
	$(PYTHON) is ' + sys.version.split()[0] + '. Try: make $(MAKECMDGOALS) PYTHON=python3.12')"
	if command -v uv >/dev/null; then uv venv -q --python $$(command -v $(PYTHON)) $(VENV); \
	else $(PYTHON) -m venv $(VENV); fi

$(VENV)/.core: $(VENV)/bin/python setup.cfg $(CONSTRAINTS)
	$(call install,.)
	@touch $@

$(VENV)/.test: $(VENV)/bin/python setup.cfg $(CONSTRAINTS)
	$(call install,.[test])
	@touch $@ $(VENV)/.core

install = if command -v uv >/dev/null; \
	then uv pip install -q -p $(BIN)/python -c $(CONSTRAINTS) -e '$(1)'; \
	else $(BIN)/python -m pip install -q --disable-pip-version-check -c $(CONSTRAINTS) -e '$(1)'; fi

clean:
	rm -rf $(VENV) .cache build *.egg-info
