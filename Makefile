# Every target makes what it needs. `make` alone lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.stamp-runtime
DEV := $(VENV)/.stamp-dev
TORCH := torch==2.13.0
PETALS_VENV := .venv-petals
AUDIT := .venv-audit
PETALS_BIN := $(PETALS_VENV)/bin
PETALS := $(PETALS_VENV)/.stamp
PYTEST := $(BIN)/python -m pytest -q
# Two processes, each a file at a time and with one thread: most tests wait, or start processes.
SHARED_OUT := -n 2 --dist loadfile
test-core test-swarm: export OMP_NUM_THREADS ?= 1
CHECKED := accept_llm launchers benchmarks tests

# Real data and models beside the clone are used when they are there; tests that need them
# are skipped otherwise. What is already set in the environment wins.
USES_SHARED := test-core test-swarm test-slow test-scale bench swarm-demo
ifneq ($(wildcard ../shared/data),)
$(USES_SHARED): export ACCEPT_DATA_DIR ?= $(CURDIR)/../shared/data
endif
ifneq ($(wildcard ../shared/models),)
$(USES_SHARED): export ACCEPT_MODEL_DIR ?= $(CURDIR)/../shared/models
endif

.PHONY: help venv petals demo swarm-demo test test-core test-swarm test-slow test-scale check format \
        bench audit wheel

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

# torch comes first and alone, by its exact version: a machine that offers a build of its
# own (CPU only, or another CUDA) then keeps it.
$(RUNTIME): pyproject.toml constraints.txt
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q $(TORCH)
	$(BIN)/pip install -q -c constraints.txt -e .
	touch $@

$(DEV): $(RUNTIME)
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $@

venv: $(DEV)  ## create .venv with everything the tests and checks need

# Not by pip's resolver: requirements-petals.txt says why.
$(PETALS): requirements-petals.txt pyproject.toml
	test -x $(PETALS_BIN)/pip || $(PYTHON) -m venv $(PETALS_VENV)
	$(PETALS_BIN)/pip install -q $(TORCH)
	$(PETALS_BIN)/pip install -q --no-deps -r requirements-petals.txt
	$(PETALS_BIN)/pip install -q --no-deps -e .
	touch $@

petals: $(PETALS)  ## create .venv-petals, the environment of Petals servers and clients

demo: $(RUNTIME)  ## train ACCEPT on SmolLM2-135M and the quick-start reviews
	$(BIN)/accept-llm train recipes/quickstart.yaml name=quickstart-$$(date +%Y%m%d-%H%M%S)

swarm-demo: $(RUNTIME) $(PETALS)  ## train on a local swarm of two servers, and compare with one process
	$(BIN)/python launchers/swarm_demo.py

test: test-core test-swarm  ## the tests that every machine can run

test-core: $(DEV)  ## those without a swarm
	$(PYTEST) $(SHARED_OUT) -m 'not slow and not gpu and not swarm'

test-swarm: $(DEV) $(PETALS)  ## those with a real swarm on loopback, in the environment of Petals
	$(PYTEST) $(SHARED_OUT) -m 'swarm and not slow and not gpu'

test-slow: $(DEV)  ## the tests that take minutes (CPU)
	$(PYTEST) -m 'slow and not gpu and not swarm' --ignore=tests/scale

test-scale: $(DEV)  ## checkpoints of Llama-2-7B's and Flan-T5-XXL's shapes, bf16 and int8 (24 GB disk, one at a time; 20 GB memory)
	$(PYTEST) -s -m 'slow and not gpu and not swarm' tests/scale

check: $(DEV)  ## linter, formatter, type checker
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/ruff format --check $(CHECKED)
	$(BIN)/mypy

format: $(DEV)  ## let the linter and the formatter repair what they can
	$(BIN)/ruff check --fix $(CHECKED)
	$(BIN)/ruff format $(CHECKED)

bench: $(DEV)  ## time and memory of a training step against PEFT (ARGS='--task sst2 --only packed peft')
	$(BIN)/python -m benchmarks.step $(ARGS)

audit:  ## known vulnerabilities of the pinned packages (pip-audit; needs the network)
	test -x $(AUDIT)/bin/pip || $(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/pip install -q pip-audit==2.10.1
	$(AUDIT)/bin/pip-audit --no-deps --disable-pip -r constraints.txt
	@echo "and the environment of Petals, whose transformers 4.33 is old (docs/security.md):"
	-$(AUDIT)/bin/pip-audit --no-deps --disable-pip -r requirements-petals.txt

wheel: $(DEV)  ## build dist/accept_llm-*.whl
	$(BIN)/pip wheel -q . --no-deps -w dist
