# make train   from nothing to a trained model, a continuation and figures
# make check   everything that CI runs
#
# Another torch (a GPU build, say): make train TORCH="torch==2.11.0". All else stays pinned by constraints.txt.

PYTHON ?= python3
VENV ?= .venv
TORCH ?= $(shell grep '^torch==' constraints.txt)
RUN_NAME ?= demo
TRAIN_FLAGS ?= --coupler_type HGNN --num_experts 3 --embed_dim 192 --num_layers 3 --tokenizer bpe:4000 \
	--learning_rate 0.001 --epochs 1 --max_batches_per_epoch 250 --eval_every 50 --num_eval_samples 400

BIN := $(VENV)/bin
PINS := $(VENV)/constraints.txt
PIP := $(BIN)/python -m pip --disable-pip-version-check
# -qq: errors only.
INSTALL = $(PIP) install -qq --no-build-isolation --constraint $(PINS)

.DEFAULT_GOAL := help
.PHONY: help train check install install-dev clean FORCE

help:  ## show this list
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

train: install  ## install, then train a small HGNN model on the embedded corpus
	$(BIN)/gnn-moe train $(TRAIN_FLAGS) --run_name $(RUN_NAME) --overwrite

check: install-dev  ## ruff, mypy, import rule and all tests: what CI runs
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pytest --numprocesses logical --dist loadfile --no-loadscope-reorder

install: $(VENV)/.installed  ## create .venv with the pinned dependencies

install-dev: $(VENV)/.installed-dev  ## the same with the tools of `make check`

clean:  ## remove the environment, caches and builds; runs/ stays
	rm -rf $(VENV) build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and "Python 3.11 or newer is needed, this is %d.%d: make PYTHON=..." % v[:2])'
	$(PYTHON) -m venv $(VENV)

# The pins but for torch, which is named below: rewritten only when they or TORCH change, so that stamps stay valid.
$(PINS): $(BIN)/python FORCE
	@{ grep -v '^torch==' constraints.txt; echo '# and $(TORCH)'; } > $@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

# The build backend comes first and pinned: builds share the environment instead of fetching the newest one.
$(VENV)/.installed: $(PINS) pyproject.toml
	@echo "Installing pinned packages into $(VENV) ($(TORCH)); a first time takes minutes."
	$(INSTALL) setuptools
	$(INSTALL) '$(TORCH)' --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(INSTALL) --editable '.[dev]'
	@touch $@

FORCE:
