# Every target does its own set-up on a fresh Debian or Ubuntu machine as root, and is quick when that is done.
#   make test    both gears, and the network namespace tests        make demo    the two-node walk-through
#   make lint    ruff, mypy, import contracts                       make build   compile the data path again
#   make bench   vxland beside the kernel's vxlan, 25 minutes       make microbench   steps of the data path
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
COMPILED := $(shell find vxland -name '*.pxd') $(patsubst %.pxd,%.py,$(shell find vxland -name '*.pxd' -not -name __init__.pxd -not -name syscalls.pxd))

.PHONY: setup build test lint demo bench microbench lock docs clean

test: build
	$(BIN)/python -m pytest
	VXLAND_PURE=1 $(BIN)/python -m pytest -m "not netns"

demo: build
	$(BIN)/vxland demo

bench: build
	$(BIN)/vxland bench $(BENCH)

microbench: build
	$(BIN)/python -m pytest tests/bench --benchmark-columns=median,iqr,ops
	VXLAND_PURE=1 $(BIN)/python -m pytest tests/bench --benchmark-columns=median,iqr,ops

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

setup: $(VENV)/.installed

build: $(VENV)/.compiled

$(VENV)/.packages: tools/packages.sh
	tools/packages.sh
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.installed: $(VENV)/.packages requirements.lock
	$(BIN)/pip install --quiet --require-hashes -r requirements.lock
	touch $@

$(VENV)/.compiled: $(VENV)/.installed pyproject.toml setup.py $(COMPILED)
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# Dependencies as the tests run them; hashes, and no address of any registry.
lock: setup
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --extra dev --extra bench --generate-hashes --universal --python-version 3.11 \
	    --no-header --no-emit-index-url --quiet --output-file requirements.lock

docs: setup
	$(BIN)/python docs/generate.py

clean:
	rm -rf $(VENV) build *.egg-info
	find vxland -name '*.so' -delete -o -name '*.c' -delete
