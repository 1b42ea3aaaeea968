# `make demo` and `make test` need Python >= 3.11, make and a package index; everything else they install themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNS ?= runs/demo

# Arguments of the battery, such as BATTERY=--check.
BATTERY ?=

.PHONY: demo test lint types unit slow bounds bench faults soak battery status docs clean help
help:  ## list the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

demo: $(VENV)/.installed  ## train 95 %-sparse networks on real digits, open the page it names
	$(BIN)/sparseflow demo --out $(RUNS)

test: lint  ## lint, types and the tests
	$(MAKE) -j 2 types unit

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed
	$(BIN)/mypy

unit: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 3 --dist loadfile -m "not slow"

slow: $(VENV)/.installed  ## the tests that take 20 seconds and more each
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile -m slow

bounds: $(VENV)/.installed  ## the engine's tests once more, with every array access of its kernels checked
	NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR=$(VENV)/bounds OMP_NUM_THREADS=1 $(BIN)/pytest tests/engine

bench: $(VENV)/.installed  ## measure every number in the README's benchmark table
	$(BIN)/python -m benchmarks

faults: $(VENV)/.installed  ## make every call of every kind of save fail, in each way, and compare what comes of it
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.faults

battery: $(VENV)-battery/.installed  ## try every optimizer of seven libraries, write docs/optimizers.md
	$(VENV)-battery/bin/python -m battery $(BATTERY)

status: $(VENV)/.installed  ## run the tests of each method's cells, write docs/status.md
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.status

soak: $(VENV)/.installed  ## 100,000 steps of the state machine of what users do to a sparse run
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.soak

docs: $(VENV)/.installed  ## build the manual into site/, open site/index.html; search works without a network
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:  ## remove the environment and all caches
	rm -rf $(VENV) $(VENV)-battery site .cache .mypy_cache .pytest_cache .ruff_cache

$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "sparseflow needs Python >= 3.11; try: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "Installing the pinned set into $(VENV), once: a minute or two, about 2.5 GB of disk."
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

# The battery's libraries lie in an environment of their own, which sees everything of $(VENV) behind them.
$(VENV)-battery/.installed: $(VENV)/.installed battery/requirements.txt
	@echo "Installing the optimizer libraries of battery/requirements.txt into $(VENV)-battery: about 0.4 GB of disk."
	@$(BIN)/python -m venv --clear $(VENV)-battery
	@$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
		> "$$($(VENV)-battery/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/project.pth"
	@$(VENV)-battery/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r battery/requirements.txt || \
		{ echo "could not install battery/requirements.txt: is the package index reachable? Then type make battery again." >&2; exit 1; }
	@touch $@
