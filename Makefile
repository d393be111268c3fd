# Everything a person needs; `make help` lists it. A virtual environment is made from the lock files on
# first use, with Python 3.11 to 3.13 and nothing else on the machine.
SHELL := /bin/bash
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo up test check format bench soak parts lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

# dev.txt holds everything in run.txt at the same versions, so an environment only ever grows.
$(VENV)/.run: requirements/run.txt pyproject.toml
	@requirements/install.sh $(VENV) requirements/run.txt
	@touch $@

$(VENV)/.dev: requirements/dev.txt pyproject.toml
	@requirements/install.sh $(VENV) requirements/dev.txt
	@touch $@ $(VENV)/.run

demo: $(VENV)/.run ## the main job on a synthetic market: fetch, prove, fold, compare; ends by itself
	@$(BIN)/python -m marketdata_dagster.demo $(ARGS)

up: $(VENV)/.run ## Dagster UI, daemon and the local exchange, until Ctrl-C
	@$(BIN)/python -m marketdata_dagster.up $(ARGS)

# Most of their time tests wait for real parts, so three at once suit two cores; each has parts of its own.
test: $(VENV)/.dev ## all tests (ARGS="-k fold" for some)
	@$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(VENV)/.dev ## linters, types, import arrows, the code location
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q tests/test_architecture.py
	@DAGSTER_DISABLE_TELEMETRY=1 VIRTUAL_ENV=$(CURDIR)/$(VENV) PATH="$(CURDIR)/$(BIN):$$PATH" DAGSTER_HOME= $(BIN)/dg check defs

format: $(VENV)/.dev ## put the code in its usual form
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(VENV)/.dev ## the benchmark table, with peers where they can be installed (ARGS=--write: docs/benchmarks.md)
	@$(BIN)/python -m bench $(ARGS)

soak: $(VENV)/.dev ## every fault of the streamer many times, and ten minutes under load; about an hour
	@MARKETDATA_SOAK=1 $(BIN)/python -m pytest -q --timeout=3600 tests/realtime/faults $(ARGS)
	@$(BIN)/python -m bench soak

parts: ## Debian's Chromium, Java, Maven and docker-compose for the tests that use them, where they are missing
	@need=; command -v chromium >/dev/null || command -v google-chrome >/dev/null || need="$$need chromium"; \
	command -v java >/dev/null || need="$$need openjdk-17-jre-headless"; \
	command -v mvn >/dev/null || need="$$need maven"; \
	command -v docker-compose >/dev/null || need="$$need docker-compose"; \
	test -z "$$need" || { apt-get update -qq && apt-get install -y -qq --no-install-recommends $$need; }

lock: ## write the lock files anew
	@requirements/lock.sh $(ARGS)

clean: ## remove what make made (environments, caches, demo data)
	rm -rf .venv .venv-bench .demo .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
