# Two commands do everything: `make demo` answers a question with a real model, `make test` runs every test.
# Both start from a fresh checkout with Python 3.11+ (with venv), make, and gcc or clang; both keep what they built,
# so that the second time starts in seconds. Nothing is ever asked, and nothing is installed outside .venv and the
# cache (~/.cache/llmrun, or LLMRUN_CACHE_DIR).

PYTHON ?= python3
MODEL ?= smollm2-135m-instruct
QUESTION ?= Why is the sky blue?
TEST_MODEL := smollm2-135m-instruct
PYTEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
INSTALLER := $(wildcard engines/install/*.py engines/install/*.cmake)
# The engines besides llama-cpp that the tests run on. Elsewhere their tests are skipped, and say why.
ifeq ($(shell uname -sm),Linux x86_64)
TEST_ENGINES := pytorch vllm ctransformers
TWIN := $(STAMPS)/twin
endif
# What the tests get to know: models, and which engines must be there.
TEST_SETTINGS = LLMRUN_TEST_MODEL="$(TEST_MODEL_PATH)" LLMRUN_TEST_TWIN="$$(cat $(STAMPS)/twin 2>/dev/null)" \
  LLMRUN_REQUIRE_ENGINES="llama-cpp $(TEST_ENGINES)"
# The path of the test model, which `llmrun models pull` printed.
TEST_MODEL_PATH = $$(cat $(STAMPS)/model)

.DEFAULT_GOAL := help
.PHONY: help demo test gpu-check check docs peers perf bench-page clean
.DELETE_ON_ERROR:

help:
	@echo 'make demo    install llmrun and its engine into .venv, fetch a small model, and ask it: QUESTION="..."'
	@echo 'make test    set up what the tests need, and run them all'
	@echo 'make gpu-check  on a machine with an NVIDIA GPU: every engine on it, compared with the processor'
	@echo 'make check   formatter, linter, types, import rules, help pages'
	@echo 'make docs    write docs/help.md from the program itself'
	@echo 'make peers   build what llmrun is compared with, once (minutes)'
	@echo 'make perf    measure llmrun against it, and write the tables of docs/performance.md'
	@echo 'make bench-page  measure every engine with `llmrun bench`, and write docs/measured.md'
	@echo 'make clean   remove .venv and build output; models and engine wheels stay in the cache'

demo: $(STAMPS)/engine $(STAMPS)/demo-model
	@echo '==> llmrun run $(MODEL) "$(QUESTION)"'
	@$(BIN)/llmrun run $(MODEL) "$(QUESTION)" --max-tokens 400 --temperature 0

test: $(STAMPS)/test $(STAMPS)/engine $(STAMPS)/test-engines $(STAMPS)/model $(TWIN)
	@$(TEST_SETTINGS) $(BIN)/python -m pytest $(PYTEST_ARGS)

gpu-check: $(STAMPS)/test $(STAMPS)/engine $(STAMPS)/test-engines $(STAMPS)/model $(TWIN)
	@$(TEST_SETTINGS) $(BIN)/python tests/gpu/gpu_check.py

check: $(STAMPS)/dev $(STAMPS)/test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tests/tools/help_pages.py --check

docs: $(STAMPS)/package
	$(BIN)/python tests/tools/help_pages.py

peers: $(STAMPS)/test $(STAMPS)/engine
	@$(BIN)/python tests/perf/peers.py

perf: $(STAMPS)/test $(STAMPS)/engine $(STAMPS)/test-engines $(STAMPS)/model $(TWIN)
	@$(TEST_SETTINGS) $(BIN)/python tests/perf/perf.py "$(TEST_MODEL_PATH)" --document docs/performance.md $(PERF_ARGS)

bench-page: $(STAMPS)/test $(STAMPS)/engine $(STAMPS)/test-engines $(STAMPS)/model $(TWIN)
	@$(TEST_SETTINGS) $(BIN)/python tests/perf/bench_page.py "$(TEST_MODEL_PATH)" "$$(cat $(STAMPS)/twin)" docs

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

# --- what the commands above need; each is done once, and again when what it depends on changes ---

$(STAMPS)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'llmrun needs Python 3.11 or newer; "$(PYTHON)" is older or missing: make PYTHON=/path/to/python3.11 ...' >&2; \
	  exit 1; }
	@echo '==> creating .venv'
	@$(PYTHON) -m venv $(VENV)
	@# an older pip downloads a whole wheel just to say where it is
	@$(PIP) install --quiet --upgrade 'pip>=25.3'
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/package: $(STAMPS)/venv pyproject.toml
	@echo '==> installing llmrun and the packages it needs into .venv'
	@$(PIP) install -e .
	@touch $@

$(STAMPS)/test: $(STAMPS)/package
	@echo '==> installing what the tests need'
	@$(PIP) install -e '.[test]'
	@touch $@

$(STAMPS)/dev: $(STAMPS)/package
	@echo '==> installing formatter, linter and type checker'
	@$(PIP) install -e '.[dev]'
	@touch $@

$(STAMPS)/engine: $(STAMPS)/package $(INSTALLER)
	@echo '==> llmrun install llama-cpp (compiled for this machine the first time; minutes)'
	@$(BIN)/llmrun install llama-cpp
	@touch $@

$(STAMPS)/test-engines: $(STAMPS)/engine
	@for engine in $(TEST_ENGINES); do \
	  echo "==> llmrun install $$engine (once; PyTorch and vLLM are large)"; \
	  $(BIN)/llmrun install $$engine || exit; \
	done
	@touch $@

# The test model once more, as transformers and vLLM read it.
$(STAMPS)/twin: $(STAMPS)/model $(STAMPS)/test-engines tests/tools/make_twin.py
	@echo '==> making the safetensors twin of $(TEST_MODEL)'
	@$(BIN)/python tests/tools/make_twin.py "$(TEST_MODEL_PATH)" > $@

$(STAMPS)/model: $(STAMPS)/package
	@echo '==> llmrun models pull $(TEST_MODEL)'
	@$(BIN)/llmrun models pull $(TEST_MODEL) > $@

# `make demo MODEL=...` may name any model: whether it is there is the program's own business to know.
$(STAMPS)/demo-model: $(STAMPS)/package
	@echo '==> llmrun models pull $(MODEL)'
	@$(BIN)/llmrun models pull $(MODEL) > /dev/null
ifeq ($(MODEL),$(TEST_MODEL))
	@touch $@
endif
