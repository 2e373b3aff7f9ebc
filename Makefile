# Everything runs in .venv. It is made when it is missing, and installed into again when a pyproject.toml or constraints.txt
# has changed: .venv/.core marks what the demo and the export need, .venv/.dev the checks on top of it, .venv/.bench the plot.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
ARGS ?=
FAULTS ?= large
WORKERS ?= 2
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --durations=10

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv demo test test-slow test-all serve cells bench bench-sessions bench-protocol faults soak fuzz mutants zoo sbom requirements lint format clean

help: ## Show this list
	@echo "usage: make TARGET [ARGS='flags for the command']"
	@sed -n 's/^\([a-z-]*\):.*## /  \1|/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-16s %s\n", $$1, $$2 }'

venv: $(VENV)/.dev ## Make .venv with everything: service, export, checks

demo: $(VENV)/.core ## Train on the sunspot series, export, serve, stream the held-out years
	@$(BIN)/python -m examples.sunspots $(ARGS)

test: lint ## Check formatting, lint and types, then run the tests that are not slow; WORKERS=4 for more at once
	@echo "==> pytest, without the slow tests" && $(PYTEST) -m "not slow" $(ARGS)

test-slow: $(VENV)/.dev ## Run the slow tests: state machines, faults, every cell
	@echo "==> pytest, the slow tests" && $(PYTEST) -m slow $(ARGS)

test-all: lint ## Check formatting, lint and types, then run every test
	@echo "==> pytest, every test" && $(PYTEST) $(ARGS)

serve: $(VENV)/.core ## Serve what is in artifacts/; ARGS='--port 9000' passes flags
	@$(BIN)/python -m service --artifacts artifacts $(ARGS)

cells: $(VENV)/.dev ## Take every cell through training, export, service and clock; ARGS='lstm --target cuda'
	@$(BIN)/python -m benchmarks.cells $(ARGS)

bench: $(VENV)/.bench ## Measure the service and print ratios; ARGS='--rounds 9' for more, figures in results/
	@$(BIN)/python -m benchmarks $(ARGS)

faults: $(VENV)/.dev ## Break requests, sockets, snapshots and the service itself; FAULTS=small takes a minute
	@$(BIN)/python -m tests.faults $(FAULTS)

soak: $(VENV)/.dev ## Time one client's steps while another one attacks; ARGS='pings --rounds 1' for less
	@$(BIN)/python -m tests.soak $(ARGS)

fuzz: $(VENV)/.fuzz ## Send 110,000 random requests and frames; ARGS=5000 for fewer
	@$(BIN)/python -m tests.fuzz $(ARGS)

requirements: $(VENV)/.pip-tools ## Write requirements.txt, the image's packages with their digests, from constraints.txt
	@$(VENV)/.pip-tools/bin/pip-compile -q --generate-hashes --strip-extras --no-annotate --no-header --allow-unsafe \
	    --no-emit-options -c constraints.txt -o requirements.txt pyproject.toml
	@sed -i '1i # The packages of the image with the digests of their files: pip install --require-hashes -r requirements.txt. Made from\n# pyproject.toml and constraints.txt by `make requirements`.' requirements.txt

sbom: $(VENV)/.sbom ## Write what the image's packages are, as CycloneDX JSON, to dist/sbom.json
	@mkdir -p dist && $(VENV)/.sbom/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
	    --output-file dist/sbom.json $(VENV)/.image && echo "dist/sbom.json"

mutants: $(VENV)/.dev ## Change foreign ONNX files at random, adopt each, compare with its own run; ARGS='--count 200' for fewer
	@$(BIN)/python -m tests.export.mutants $(ARGS)

zoo: $(VENV)/.dev ## Adopt every foreign ONNX graph of the tests and print what becomes of it
	@$(BIN)/python -m tests.export.catalogue

bench-sessions: $(VENV)/.core ## Measure step numbers, forks, and a million idle sessions; ARGS='--idle 100000' for fewer
	@$(BIN)/python -m benchmarks.sessions $(ARGS)

bench-protocol: $(VENV)/.core ## Measure the Open Inference Protocol against /v1; needs CELLSTREAM_SHARED
	@$(BIN)/python -m benchmarks.protocol $(ARGS)

lint: $(VENV)/.dev ## Check formatting, lint and types
	@echo "==> ruff format" && $(BIN)/ruff format --check .
	@echo "==> ruff check" && $(BIN)/ruff check .
	@echo "==> mypy --strict" && $(BIN)/mypy --strict

format: $(VENV)/.dev ## Format the code and fix what can be fixed
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

clean: ## Remove .venv, caches, the trained checkpoint and the artefacts
	rm -rf $(VENV) artifacts checkpoints build dist *.egg-info clients/python/build clients/python/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@echo "==> making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.core: pyproject.toml clients/python/pyproject.toml constraints.txt | $(BIN)/python
	@echo "==> installing torch, which is large: a minute or two"
	@$(PIP) install -c constraints.txt torch
	@echo "==> installing the service, the export step and the client"
	@$(PIP) install -c constraints.txt -e clients/python -e '.[export]'
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	@echo "==> installing ruff, mypy, pytest and the rest of the checks"
	@$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@

$(VENV)/.bench: $(VENV)/.core
	@echo "==> installing what draws the plot"
	@$(PIP) install -c constraints.txt -e '.[bench]'
	@touch $@

$(VENV)/.fuzz: $(VENV)/.dev
	@echo "==> installing schemathesis"
	@$(PIP) install -c constraints.txt -e '.[fuzz]'
	@touch $@

$(VENV)/.pip-tools: | $(BIN)/python
	@$(PYTHON) -m venv $@ && $@/bin/python -m pip --disable-pip-version-check -qq install pip-tools

# The tool has a venv of its own, and looks into another one, which has what the image has.
$(VENV)/.sbom: pyproject.toml constraints.txt requirements.txt | $(BIN)/python
	@rm -rf $@ $(VENV)/.image && $(PYTHON) -m venv $(VENV)/.image && $(PYTHON) -m venv $@
	@$(VENV)/.image/bin/python -m pip --disable-pip-version-check -qq install --require-hashes -r requirements.txt
	@$@/bin/python -m pip --disable-pip-version-check -qq install cyclonedx-bom
