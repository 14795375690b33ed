# Everything a newcomer needs: `make demo`, `make test`. Python 3.11+ and make are all that must be there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
SOURCES := $(shell find line_worker calib bench -name '*.py' -o -name '*.html' -o -name '*.xml' -o -path '*/static/*')

# Without an NVIDIA driver torch comes first, as the build that TORCH names; with one, the newest CUDA build comes.
# TORCH_ARGS is for indexes that keep the CPU builds apart, e.g. make test TORCH_ARGS="--index-url URL"
TORCH ?= $(if $(wildcard /proc/driver/nvidia/version),torch>=2.13,torch==2.13.0)
TORCH_ARGS ?=
# what the tests need; with EXTRAS=test,basler those of Basler cameras run, too
EXTRAS ?= test

.PHONY: demo test check format slow long drill fuzz axe camera cluster live wheel clean
demo: $(VENV)/.installed
	$(BIN)/line-worker demo

test: $(VENV)/.tests
	$(BIN)/pytest

# long runs: many more steps of the state machine and the message fuzzing
slow: $(VENV)/.tests
	HYPOTHESIS_PROFILE=slow $(BIN)/pytest tests/test_ledger_machine.py tests/test_messages.py tests/test_batching.py --timeout 3600

# the tests that `make test` leaves out because it should end within 15 minutes
long: $(VENV)/.tests
	$(BIN)/pytest -m long

# ten minutes of breaking a line on purpose
drill: $(VENV)/.installed
	$(BIN)/line-worker drill --minutes 10

# hostile input by the million; it goes on where it was stopped
fuzz: $(VENV)/.tests
	$(BIN)/line-worker bench fuzz --messages 10000000 --images 100000 --bundles 100000 --recordings 20000 \
	  --sockets 100000 --state fuzz.json

# the accessibility rules of the page's tests (axe-core, MPL-2.0; not part of the product)
axe:
	mkdir -p .axe && cd .axe && tar xzf "$$(npm pack --silent axe-core@4)" package/axe.min.js package/LICENSE

# rescore on a Ray cluster of several nodes on this machine, one of which is killed
cluster: $(VENV)/.tests
	$(PIP) ".[cluster]"
	RAY_CLUSTER=1 $(BIN)/pytest tests/test_rescore_cluster.py --timeout 600

# a fake GigE Vision camera for a minute, then for another one in which it loses packets (Debian's aravis-tools)
camera: $(VENV)/.tests
	$(BIN)/line-worker bench camera --seconds 60
	$(BIN)/line-worker bench camera --seconds 60 --lose 5

# ten minutes of the page in a browser: it must not grow
live: $(VENV)/.tests
	LIVE_MINUTES=10 $(BIN)/pytest tests/test_live_browser.py -m long -k grow --timeout 1200

define timed
	@start=$$(date +%s); echo "== $(1)"; $(2); echo "== $(1): $$(( $$(date +%s) - start )) s"
endef

check: $(VENV)/.tests $(VENV)/.checks
	$(call timed,format,$(BIN)/ruff format --check --quiet .)
	$(call timed,lint,$(BIN)/ruff check --quiet .)
	$(call timed,types,$(BIN)/mypy line_worker calib bench)
	$(call timed,import contracts,$(BIN)/lint-imports)
	$(call timed,tests,$(BIN)/pytest --quiet)

format: $(VENV)/.checks
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist *.egg-info

$(VENV)/.torch:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "line-worker needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH_ARGS) "$(TORCH)"
	@touch $@

# the wheel is installed, not the checkout: what is tested is what users get
$(VENV)/.installed: $(VENV)/.torch pyproject.toml $(SOURCES)
	$(PIP) --upgrade-strategy only-if-needed .
	$(PIP) --force-reinstall --no-deps .
	@touch $@

$(VENV)/.tests: $(VENV)/.installed
	$(PIP) ".[$(EXTRAS)]"
	@touch $@

$(VENV)/.checks: $(VENV)/.tests
	$(PIP) ".[check]"
	@touch $@
