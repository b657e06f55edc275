# Start with two commands: `make demo` and `make test`.

VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin
# Namespaces, bpffs and devices need root; make uses sudo only for those parts.
SUDO = $(shell [ "$$(id -u)" = 0 ] || echo sudo)
WHY_SUDO = @[ -z "$(SUDO)" ] || echo "namespaces, devices and pins need root: using sudo"
PACKAGE = $(VENV)/.installed
DEVELOPMENT = $(VENV)/.installed-development
PROOF = $(SUDO) env BPFPIN_KERNEL_TESTS=1 BPFPIN_FULL_PROOF=1 $(if $(ALL),BPFPIN_ALL_PAIRS=1) \
	PYTHONDONTWRITEBYTECODE=1 $(BIN)/python -m pytest -q -p no:cacheprovider
# Tests start the command thousands of times, and as root they must not write bytecode into a checkout.
COMPILED = $(BIN)/python -m compileall -q src tests
TEST = $(SUDO) env BPFPIN_KERNEL_TESTS=1 PYTHONDONTWRITEBYTECODE=1 \
	$(BIN)/python -m pytest -p no:cacheprovider
# pytest rewrites the tests when it compiles them, so it keeps the bytecode whatever is exported.
QUICK = env PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -q -m "not slow" --quick
CHECKS = check-types check-unit-rest check-unit-first check-style
FIRST_HALF = $(wildcard tests/unit/test_*.py tests/unit/btf tests/unit/cli)
FUZZ_PYTHON = env PYTHONDONTWRITEBYTECODE=1 $(abspath $(BIN))/python
# Each test process has its own namespaces. The proof measures, so it needs the machine for itself.
JOBS ?= $(shell expr $$(nproc) + 1)
MATRIX = tests/proof/test_crash_matrix.py tests/proof/test_crash_others.py
BENCHES = $(sort $(wildcard bench/*.py))

KERNELS ?= 6.12 newest
LEVEL ?= smoke
# Rewrite docs/kernels.md; empty to leave it as it is.
WRITE ?= --write

.PHONY: help demo test test-kernels fuzz check $(CHECKS) crash-matrix reload-proof migration-proof generate generated picture bench measure clean

help:
	@echo "make demo          run a demonstration on a throw-away lab (root)"
	@echo "make test          run everything that CI runs (root)"
	@echo "make check         check format, lint, types and unit tests (no root)"
	@echo "make crash-matrix  kill and fail commands at every system call, in full (root, strace)"
	@echo "make reload-proof  reload under traffic, concurrently and with readers, in full (root, gcc)"
	@echo "make migration-proof  migrate maps under traffic, in full (root)"
	@echo "make test-kernels  run tests in other kernels under qemu: KERNELS=\"6.1 6.12\" LEVEL=full (root, qemu)"
	@echo "make fuzz          read 200,000 damaged objects, then fuzz for FUZZ_SECONDS (3600)"
	@echo "make bench         compare the speed with C and bpftool (root, libbpf-dev, gcc)"
	@echo "make measure       print measurements of the source, with their targets"
	@echo "make generate      rewrite the generated files"
	@echo "make generated     check that the generated files are up to date"
	@echo "make picture       redraw docs/images/shared-map.svg (root)"

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
	$(COMPILED)
	@$(MAKE) --no-print-directory --keep-going --output-sync --jobs=$$(nproc) $(CHECKS)

# The longest first; two processes of pytest cost less than the workers of xdist, which each collect all.
check-types: $(DEVELOPMENT)
	$(BIN)/mypy

check-unit-rest: $(DEVELOPMENT)
	$(QUICK) $(addprefix --ignore=,$(FIRST_HALF)) tests/unit

check-unit-first: $(DEVELOPMENT)
	$(QUICK) $(FIRST_HALF)

check-style: $(DEVELOPMENT)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

test: $(DEVELOPMENT)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(WHY_SUDO)
	$(COMPILED)
	$(TEST) -n $(JOBS) --dist worksteal --ignore tests/unit/test_install.py \
		tests/unit tests/fuzz tests/kernel tests/lab
	$(TEST) tests/unit/test_install.py # needs pip's index, which private namespaces cannot reach
	$(TEST) -n $(JOBS) --dist loadscope $(MATRIX)
	$(TEST) $(addprefix --ignore=,$(MATRIX)) tests/proof

# If atheris can be installed, coverage-guided fuzzing follows for FUZZ_SECONDS.
fuzz: $(DEVELOPMENT)
	cd tests && FUZZ_CASES=200000 $(FUZZ_PYTHON) -m pytest -q -p no:cacheprovider fuzz
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[fuzz]' || \
		echo "atheris is not available for this Python: skipping guided fuzzing"
	cd tests && ! $(FUZZ_PYTHON) -c 'import atheris' 2>/dev/null || $(FUZZ_PYTHON) -m fuzz.guided

crash-matrix: $(DEVELOPMENT)
	$(WHY_SUDO)
	$(PROOF) -n $(JOBS) --dist loadscope $(MATRIX)

reload-proof: $(DEVELOPMENT)
	$(WHY_SUDO)
	$(PROOF) --deselect tests/proof/test_crash_matrix.py --deselect tests/proof/test_migration.py \
		--deselect tests/proof/test_migration_lru.py tests/proof

migration-proof: $(DEVELOPMENT)
	$(WHY_SUDO)
	$(PROOF) tests/proof/test_migration.py tests/proof/test_migration_lru.py

test-kernels: $(DEVELOPMENT)
	$(WHY_SUDO)
	$(COMPILED)
	$(SUDO) $(BIN)/python scripts/run_guests.py $(WRITE) --level $(LEVEL) $(KERNELS)

generate: $(DEVELOPMENT)
	$(BIN)/python scripts/gen_uapi.py
	$(BIN)/python scripts/gen_helpers.py
	$(BIN)/python scripts/build_builtin.py
	$(BIN)/python scripts/gen_public_names.py
	$(BIN)/python scripts/gen_hooks.py
	$(BIN)/python scripts/gen_state_schema.py

generated: $(DEVELOPMENT)
	$(BIN)/python scripts/gen_uapi.py --check
	$(BIN)/python scripts/gen_helpers.py --check
	$(BIN)/python scripts/build_builtin.py --check
	$(BIN)/python scripts/gen_public_names.py --check
	$(BIN)/python scripts/gen_hooks.py --check

picture: $(PACKAGE)
	$(WHY_SUDO)
	$(SUDO) $(BIN)/python scripts/draw_shared_map.py

bench: $(DEVELOPMENT)
	@status=0; for bench in $(BENCHES); do $(SUDO) $(BIN)/python $$bench || status=1; done; exit $$status

measure: $(BIN)/python
	@$(BIN)/python scripts/measure_house.py

clean:
	rm -rf $(VENV) build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
