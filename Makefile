# `make run` and `make test` need only Python (3.11 or newer), make and git. Settings pass through: make run MAYFLY_PORT=9000
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes

.PHONY: run test test-long lint audit bench pictures catalogues lock clean

run: $(VENV)/.server
	@exec $(BIN)/python server.py

test: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not long" $(ARGS)

# Races, kills and soaks that take minutes.
test-long: $(VENV)/.dev
	$(BIN)/python -m pytest -m long --timeout 3600 $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

audit: $(VENV)/.dev
	$(BIN)/pip-audit --require-hashes --disable-pip $(addprefix -r ,$(wildcard requirements*.txt))

# Against SnapPass and a Flask hello-world, in one run; needs wrk and redis-server.
bench: $(VENV)/.bench
	$(BIN)/python -m bench $(ARGS)

# The pictures in docs/images; needs chromium.
pictures: $(VENV)/.dev
	$(BIN)/python -m tests.pictures

# Bring web/translations up to date with the texts in code and templates; `make catalogues ARGS=de` begins a language.
catalogues: $(VENV)/.dev
	$(BIN)/python -m tests.catalogues $(ARGS)

# Choose newer versions, all with hashes; no file names where they were fetched from.
lock: $(VENV)/.uv
	for name in requirements requirements-postgresql requirements-mysql requirements-valkey requirements-dev requirements-bench; do \
		$(VENV)/uv/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
			--no-header --no-emit-index-url --no-emit-find-links $$name.in -o $$name.txt || exit 1; \
	done

clean:
	rm -rf $(VENV)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Mayfly needs Python 3.11 or newer; set PYTHON=..."; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.server: requirements.txt | $(BIN)/python
	@echo "Installing what Mayfly needs into $(VENV)"
	@$(PIP_INSTALL) -r requirements.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt | $(BIN)/python
	@$(PIP_INSTALL) -r requirements-dev.txt
	@touch $@ $(VENV)/.server

$(VENV)/.bench: requirements-bench.txt | $(BIN)/python
	@$(PIP_INSTALL) -r requirements-bench.txt
	@touch $@

$(VENV)/.uv: | $(BIN)/python
	@$(BIN)/python -m venv $(VENV)/uv && $(VENV)/uv/bin/pip install --quiet uv
	@touch $@
