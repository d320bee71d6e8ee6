# Every command that README names. The virtual environment is made on first use, from hash-locked requirements.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run demo test test-fast check bench bench-prevote bench-members leader-kills idle simulate planted-bugs lock chromium clean

run: $(VENV)/run.stamp
	$(BIN)/python launcher.py

demo: $(VENV)/run.stamp
	$(BIN)/python launcher.py demo

test: $(VENV)/dev.stamp chromium
	$(BIN)/python -m pytest

test-fast: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -m "not system"

check: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# MINUTES=10 instead of SEEDS goes on for so long.
SEEDS ?= 2000
MINUTES ?=
simulate: $(VENV)/dev.stamp
	$(BIN)/python -m tests.simulation $(if $(MINUTES),--minutes $(MINUTES),--seeds $(SEEDS))

planted-bugs: $(VENV)/dev.stamp
	$(BIN)/python -m tests.simulation --bugs

bench: $(VENV)/run.stamp
	$(BIN)/python -m bench.http_bench

KILLS ?= 20
READS ?= 0
leader-kills: $(VENV)/run.stamp
	$(BIN)/python -m bench.leader_kills --kills $(KILLS) --reads $(READS)

bench-prevote: $(VENV)/run.stamp
	$(BIN)/python -m bench.prevote

bench-members: $(VENV)/run.stamp
	$(BIN)/python -m bench.members

idle: $(VENV)/run.stamp
	$(BIN)/python -m bench.idle

$(VENV)/run.stamp: requirements.lock
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "python3-venv is missing: apt install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@

$(VENV)/dev.stamp: requirements-dev.lock $(VENV)/run.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

# The monitor's browser test needs a Chromium; Debian's is installed where that is possible.
chromium:
	@command -v chromium >/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing Debian's chromium for the browser test"; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; \
	  else echo "no chromium: the browser test will be skipped (apt install chromium)"; fi; }

# Resolves the newest versions that pyproject.toml allows. Needs uv.
lock:
	uv pip compile pyproject.toml --generate-hashes --universal --no-emit-index-url --no-header --no-annotate -o requirements.lock
	uv pip compile pyproject.toml --extra dev -c requirements.lock --generate-hashes --universal --no-emit-index-url --no-header --no-annotate -o requirements-dev.lock

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
