# Every target makes its own virtual environment in .venv first; a second run finds it there.
SHELL := /bin/bash
PYTEST := .venv/bin/python -m pytest
COVERAGE := --cov --cov-branch --cov-report=term:skip-covered
WORKERS ?= 2
FUZZ_SECONDS ?= 600
export PATH := $(PATH):/usr/sbin:/sbin
# onnxruntime from 1.29 on reports usage to its makers unless told otherwise before it is imported.
export ORT_DISABLE_TELEMETRY := 1

.PHONY: help setup demo test test-long fuzz lint check bench pin clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 14

setup: ## virtual environment with everything for development, and Debian packages where apt may install them
	@scripts/setup.sh dev

demo: ## the whole way on this machine: compile, deploy, ask, watch, roll back
	@scripts/setup.sh demo
	@.venv/bin/hyle demo

test: setup ## the test suite with branch coverage, without the heavy sweeps
	@$(PYTEST) -q -n $(WORKERS) -m "not long" $(COVERAGE)

test-long: setup ## the heavy sweeps alone
	@$(PYTEST) -m long -o faulthandler_timeout=3600

fuzz: setup ## fuzz what reads bytes from outside, FUZZ_SECONDS (600) for each target; the corpus grows
	@.venv/bin/python -m pip install -q -c constraints.txt -e ".[fuzz]"
	@.venv/bin/python fuzz/run.py --seconds $(FUZZ_SECONDS)

lint: setup ## format, lint, types, import rules, generated code
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/python protos/generate.py --check

check: lint ## what CI runs, and at least 90 % of branches covered
	@$(PYTEST) -q -n $(WORKERS) -m "not long" $(COVERAGE) --cov-fail-under=90

bench: setup ## every figure of the README, each from one file of benchmarks/
	@set -e; files=$$(ls benchmarks/bench_*.py); for file in $$files; do echo "== $$file"; .venv/bin/python $$file; done

pin: setup ## write constraints.txt from what .venv holds
	@.venv/bin/python scripts/pin.py > constraints.new && mv constraints.new constraints.txt

clean: ## remove the virtual environment and every cache
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache .coverage* demo-out results build dist
