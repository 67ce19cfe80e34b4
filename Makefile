# `make demo` shows the mesh at work, `make test` proves it, `make bench` measures it; each target sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := weave router ipam dns cni docker tests
BENCH ?=
NAMES ?= $(filter --quick --help,$(BENCH))
CNI ?= $(filter --quick --help,$(BENCH))
SEEDS ?= 20
PEERS ?= 30
FIRST ?= 1

.PHONY: help demo test bench simulate check launch lock wheel clean

help:
	@echo "make demo    three hosts in network namespaces form a mesh; containers on them talk (root)"
	@echo "make test    all tests (root; without root those that need none, and a non-zero exit)"
	@echo "make bench   side by side with other overlays, name servers and CNI plugins, 27 minutes (root; BENCH=--quick"
	@echo "             for a look, BENCH=--help for options; NAMES has those of the name servers, CNI of the plugins)"
	@echo "make simulate  clusters in turmoil allocate addresses and share names (SEEDS=20 of them, with up to PEERS=30, from seed FIRST=1 on)"
	@echo "make check   formatting, lint, types, import direction"
	@echo "make launch  start the router on this host (root)"
	@echo "make lock    renew requirements.lock from pyproject.toml"

$(VENV)/installed: pyproject.toml requirements.lock
	@.ci/packages build
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Setting up $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(VENV)/installed
	@.ci/packages lab
	@$(BIN)/python tests/lab/demo.py

test: $(VENV)/installed
	@if [ "$$(id -u)" = 0 ]; then .ci/packages lab; fi
	@$(BIN)/python tests/run.py

bench: $(VENV)/installed
	@.ci/packages bench
	@worst=0; measure() { $(BIN)/python "$$@" || { status=$$?; [ $$status -lt 2 ] || exit $$status; worst=$$status; }; }; \
		measure tests/bench/overlays.py $(BENCH); \
		measure tests/bench/names.py $(NAMES); \
		measure tests/bench/cni.py $(CNI); \
		exit $$worst

simulate: $(VENV)/installed
	@$(BIN)/python tests/simulation/simulate_ipam.py --seeds $(SEEDS) --peers $(PEERS) --first $(FIRST)
	@$(BIN)/python tests/simulation/simulate_names.py --seeds $(SEEDS) --peers $(PEERS) --first $(FIRST)

check: $(VENV)/installed
	$(BIN)/ruff format --check --diff $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

launch: $(VENV)/installed
	@.ci/packages lab
	$(BIN)/weave launch

lock:
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header \
		--python-version 3.11 --group dev pyproject.toml -o requirements.lock

wheel: $(VENV)/installed
	@rm -rf dist
	$(BIN)/python -m build --no-isolation --quiet

clean:
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
