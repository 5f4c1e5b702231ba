# `make help` says what there is. Everything installs what it needs first.

PYTHON ?= $(firstword $(foreach p,python3 python3.14 python3.13 python3.12 python3.11,$(if $(shell $(p) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo y),$(p))))
VENV := .venv
BIN := $(VENV)/bin
# Options for `lab run`, pytest and the bench: make run ARGS='--kernel 6.1'
ARGS ?=

.DEFAULT_GOAL := help

.PHONY: help
help: ## say what the targets do
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: host $(VENV)/.installed ## install what is missing, on the host and in .venv

.PHONY: host
host:
	@scripts/setup-host

.PHONY: host-for-tests
host-for-tests:
	@scripts/setup-host --tests

$(VENV)/.installed: pyproject.toml | host
	@test -n "$(PYTHON)" || python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "The lab needs Python 3.11 or newer; make PYTHON=/path/to/python3.x" >&2; exit 3; }
	@echo "Making $(VENV), the lab's own Python packages"
	@$(or $(PYTHON),python3) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

# The user's own folder for commands, which Debian's and Ubuntu's shells look into once it is there.
BINDIR ?= $(if $(filter 0,$(shell id -u)),/usr/local/bin,$(HOME)/.local/bin)

.PHONY: install
install: setup ## put `lab` into BINDIR (~/.local/bin; root: /usr/local/bin), as a link to .venv
	@mkdir -p $(BINDIR)
	@ln -sf $(CURDIR)/$(BIN)/lab $(BINDIR)/lab
	@case ":$$PATH:" in \
		*":$(BINDIR):"*) echo "lab is $(BINDIR)/lab" ;; \
		*) echo "lab is $(BINDIR)/lab, which is not on your PATH yet: a new login may do, or" \
			"export PATH=$(BINDIR):\$$PATH" ;; \
	esac

.PHONY: run
run: setup ## play this repository's lab: the procfs modules on the quick kernels
	@$(BIN)/lab run $(ARGS)

# What `lab run` makes of the faulty modules is no verdict on them: its status says that scenarios
# failed, as they must. A run that did not come to results leaves none to compare.
.PHONY: zoo
zoo: setup ## play faulty modules, and say which of their faults the lab finds and names right
	@rm -f lab-results/zoo/latest
	@$(BIN)/lab run --lab tests/faulty/lab.yaml --results lab-results/zoo $(ARGS) || test $$? -ne 2
	@$(BIN)/python -m tests.faulty.zoo lab-results/zoo/latest

.PHONY: zoo-debug
zoo-debug: ## the same on kernels with the kernel's own checks, which are built first
	@$(MAKE) --no-print-directory zoo ARGS="--kernel debug -s 'debug/*' -s 'healthy/*' $(ARGS)"

.PHONY: bench
bench: setup ## measure the lab, beside virtme-ng (ARGS=--quick: a few minutes; --help says more)
	@$(BIN)/python -m tests.bench $(ARGS)

.PHONY: lint
lint: setup ## style, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: check
check: lint host-for-tests ## all that needs no guest: lint, unit and contract tests
	$(BIN)/python -m pytest -m 'not vm' $(ARGS)

.PHONY: test
test: setup host-for-tests ## everything, with real guests
	$(BIN)/python -m pytest $(ARGS)

.PHONY: hostile
hostile: setup host-for-tests ## attack the lab: guests, builds and labs that mean ill (docs/security.md)
	$(BIN)/python -m pytest tests/hostile $(ARGS)

.PHONY: fuzz
fuzz: setup ## feed every parser with what nobody wrote (ARGS="klog --seconds 600"; --help says more)
	@$(BIN)/python -m tests.hostile.fuzz $(ARGS)

.PHONY: nightly
nightly: setup host-for-tests ## the whole matrix of kernels, and the tests that take long (hours without KVM)
	@$(BIN)/lab run --kernel nightly $(ARGS)
	LAB_NIGHTLY=1 $(BIN)/python -m pytest -m nightly

.PHONY: generated
generated: setup ## make anew what is made from the code: JSON Schemas, the manual page
	$(BIN)/python -m orchestrator schema lab > orchestrator/schemas/lab.schema.json
	$(BIN)/python -m orchestrator schema scenario > orchestrator/schemas/scenario.schema.json
	$(BIN)/python -m orchestrator.doors.manpage > man/lab.1

.PHONY: clean
clean: ## remove what was made here; the cache of kernels and images stays
	rm -rf $(VENV) lab-results build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
