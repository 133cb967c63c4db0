# The only entry for people and machines. Every target installs what it needs and can be repeated.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON := .venv/bin/python
PYTEST := .venv/bin/pytest
PART ?= control
STORE ?= local
# Tests with folders, ports and daemons of their own, which mind no neighbour; each file is one worker's.
SIDE_BY_SIDE := tests/contract tests/faults tests/model tests/security \
	$(addprefix tests/integration/,hil images storage switches target)

.PHONY: help setup demo test thorough lio faults security check bench clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  \033[1m%-8s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Install what is missing: Debian packages, uv, locked Python packages (needs root)
	@scripts/setup

demo: setup ## Boot virtual nodes of two tenants from clones of a golden image (STORE=ceph, ARGS=--keep)
	@.venv/bin/bmi lab demo --store $(STORE) $(ARGS)

test: setup check ## Run every test: units on PostgreSQL too, contract, real daemons, booting nodes
	@$(PYTEST) tests/unit --database=postgresql -q -n 2 $(ARGS)
	@$(PYTEST) $(SIDE_BY_SIDE) -n 2 --dist loadfile $(ARGS)
	@$(PYTEST) tests/integration $(addprefix --ignore=,$(SIDE_BY_SIDE)) tests/e2e $(ARGS)

thorough: setup ## More boots: all golden images, all firmware, plain Debians on LVM, XFS and btrfs (an hour)
	@$(PYTEST) tests/e2e -m thorough $(ARGS)

lio: setup ## Test the target driver lio in a virtual machine, whose kernel has what it needs (a quarter of an hour; ARGS=--bench measures)
	@$(PYTHON) -m tests.lio $(ARGS)

faults: setup ## Let every workflow go wrong at every point, in every way; writes docs/faults.md (an hour or more)
	@$(PYTHON) -m tests.faults --real --report docs/faults.md $(ARGS)

security: setup ## Ask every route as everybody, send it anything, search for secrets, let linters look, also at units; writes docs/access-rules.md (some minutes)
	@$(PYTHON) -m tests.security --report docs/access-rules.md $(ARGS)

check: setup ## Format, lint, types, import rules and unit tests (some minutes)
	@.venv/bin/ruff format --check src tests bench
	@.venv/bin/ruff check src tests bench
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-cache
	@$(PYTEST) tests/unit -q -n 2 $(ARGS)

bench: setup ## Measure, and print one JSON object per measurement (PART=control)
	@$(PYTHON) -m bench.$(PART) $(ARGS)

clean: ## Remove what the other targets made in this folder, and a lab that still runs
	@if [ -x .venv/bin/bmi ]; then .venv/bin/bmi lab down; fi
	@rm -rf .venv .tools .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
