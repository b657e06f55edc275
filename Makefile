# Two commands for a newcomer: `make demo` and `make test`.

VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin
# Namespaces, bpffs and devices need root; make asks sudo for those parts alone.
SUDO = $(shell [ "$$(id -u)" = 0 ] || echo sudo)
WHY_SUDO = @[ -z "$(SUDO)" ] || echo "namespaces, devices and pins need root: asking sudo"
PACKAGE = $(VENV)/.installed
DEVELOPMENT = $(VENV)/.installed-development
PROOF = $(SUDO) env BPFPIN_KERNEL_TESTS=1 BPFPIN_FULL_PROOF=1 PYTHONDONTWRITEBYTECODE=1 \
	$(BIN)/python -m pytest -q -p no:cacheprovider
TEST = $(SUDO) env BPFPIN_KERNEL_TESTS=1 PYTHONDONTWRITEBYTECODE=1 \
	$(BIN)/python -m pytest -p no:cacheprovider
# Each process of tests has namespaces of its own; what the proof measures wants the machine alone.
JOBS ?= 2
BENCHES = $(sort $(wildcard bench/*.py))

.PHONY: help demo test check crash-matrix reload-proof generate generated picture bench clean

help:
	@echo "make demo          the whole story on a throw-away lab (root)"
	@echo "make test          everything that CI runs (root)"
	@echo "make check         the fast half: format, lint, types, unit tests"
	@echo "make crash-matrix  commands killed and failed at every call, in full (root, strace)"
	@echo "make reload-proof  reloads under traffic, at once and beside readers, in full (root, gcc)"
	@echo "make bench         side-by-side measurements (root, libbpf-dev, gcc)"
	@echo "make generate      write the generated files anew"
	@echo "make picture       draw docs/images/shared-map.svg anew (root)"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(PACKAGE): $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(DEVELOPMENT): $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(PACKAGE)

demo: $(PACKAGE)
	$(WHY_SUDO)
	@$(SUDO) $(CURDIR)/$(BIN)/bpfpin demo

check: $(DEVELOPMENT)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -m "not slow" tests/unit

test: $(DEVELOPMENT)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(WHY_SUDO)
	$(TEST) -n $(JOBS) --dist worksteal tests/unit tests/kernel tests/lab
	$(TEST) tests/proof

crash-matrix: $(DEVELOPMENT)
	$(WHY_SUDO)
	$(PROOF) tests/proof/test_crash_matrix.py

reload-proof: $(DEVELOPMENT)
	$(WHY_SUDO)
	$(PROOF) --deselect tests/proof/test_crash_matrix.py tests/proof

generate: $(DEVELOPMENT)
	$(BIN)/python scripts/gen_uapi.py
	$(BIN)/python scripts/gen_helpers.py
	$(BIN)/python scripts/build_builtin.py

generated: $(DEVELOPMENT)
	$(BIN)/python scripts/gen_uapi.py --check
	$(BIN)/python scripts/gen_helpers.py --check
	$(BIN)/python scripts/build_builtin.py --check

picture: $(PACKAGE)
	$(WHY_SUDO)
	$(SUDO) $(BIN)/python scripts/draw_shared_map.py

bench: $(DEVELOPMENT)
	@status=0; for bench in $(BENCHES); do $(SUDO) $(BIN)/python $$bench || status=1; done; exit $$status

clean:
	rm -rf $(VENV) build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
