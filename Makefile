# Two commands matter: `make quickstart` and `make test`. Each sets up all that it needs in .venv on a machine with
# Python 3.11 or newer, git and make.

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
TORCH := 2.13.0

.PHONY: quickstart test bench lint clean
.DELETE_ON_ERROR:

quickstart: $(VENV)/.train ## curate the sample data, let a tiny model learn, and say what to try next
	$(BIN)/winnow quickstart

test: $(VENV)/.dev $(VENV)/.vllm $(VENV)/.ray $(VENV)/.browser ## everything, as CI runs it
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

bench: $(VENV)/.dev ## speed and memory, as ratios to a peer on the same work
	for bench in tests/benchmarks/bench_*.py; do echo "== $$bench"; $(BIN)/python $$bench || exit 1; done

lint: $(VENV)/.dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

clean:
	rm -rf $(VENV) .winnow .pytest_cache .mypy_cache .ruff_cache

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Winnow needs Python 3.11 or newer; none was found. Install one, or say: make PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Where no GPU is seen, the CPU build of torch: it is a tenth of the size. A machine may hold that build among its own
# packages; else uv knows where PyTorch keeps it.
$(VENV)/.torch: | $(BIN)/python
	@if ! $(BIN)/python -c 'import torch' 2>/dev/null; then \
	  if command -v nvidia-smi >/dev/null || test "$$(uname)" = Darwin; then \
	    echo "installing torch $(TORCH)"; $(PIP) install torch==$(TORCH); \
	  else \
	    echo "installing torch $(TORCH), CPU build (no GPU is seen)"; \
	    $(PIP) install torch==$(TORCH)+cpu 2>/dev/null || \
	      { $(PIP) install uv && $(BIN)/uv pip install -q --python $(BIN)/python --torch-backend cpu torch==$(TORCH); } || \
	      $(PIP) install torch==$(TORCH); \
	  fi; \
	fi
	@touch $@

$(VENV)/.train: pyproject.toml constraints.txt $(VENV)/.torch
	$(PIP) install -c constraints.txt -e '.[train,report]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt $(VENV)/.torch
	$(PIP) install -c constraints.txt -e '.[dev,train,server,report]'
	@touch $@ $(VENV)/.train

# An engine for the tests marked `vllm`: where this machine can have none, they say so.
$(VENV)/.vllm: $(VENV)/.dev tests/vllm_environment.py
	$(BIN)/python tests/vllm_environment.py
	@touch $@

# Ray for the tests marked `ray`: where there is none for this machine, they say so.
$(VENV)/.ray: $(VENV)/.dev
	$(PIP) install -c constraints.txt -e '.[ray]' || \
	  echo "Ray could not be installed, so its tests will not run. Try again: $(BIN)/python -m pip install -e '.[ray]'"
	@touch $@

# A browser for the tests marked `browser`: where this machine can have none, they say so.
$(VENV)/.browser: $(VENV)/.dev tests/browser_environment.py
	$(BIN)/python tests/browser_environment.py
	@touch $@
